//! People: the rows of `app_user`.

use super::{Client, Store, StoreError};
use serde_json::{Map, Value};
use tokio_postgres::Row;

/// A person as the table has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// The id, an API server's own or a UUID.
    pub id: String,
    /// The address.
    pub email: String,
    /// The name, for people.
    pub display_name: String,
    /// `active` or `disabled`.
    pub status: String,
    /// Whatever else is known.
    pub attributes: Map<String, Value>,
    /// The manager, if there is one.
    pub manager: Option<Manager>,
}

/// A person's manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The id.
    pub id: String,
    /// The address.
    pub email: String,
    /// The name.
    pub display_name: String,
    /// `active` or `disabled`.
    pub status: String,
}

impl Person {
    /// Whether the person can be asked, and be given something.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.status == ACTIVE
    }
}

/// The status of a person who can do something.
pub const ACTIVE: &str = "active";

/// A person with the manager. Names stand as they are in the table; what follows is the condition.
const PERSON: &str = "
    SELECT u.id, u.email, u.display_name, u.status, u.attributes,
        m.id AS manager_id, m.email AS manager_email, m.display_name AS manager_name, m.status AS manager_status
    FROM app_user u LEFT JOIN app_user m ON m.id = u.manager_id";

impl Store {
    /// The person of this id.
    pub async fn person(&self, id: &str) -> Result<Option<Person>, StoreError> {
        let client = self.client().await?;
        let sql = format!("{PERSON} WHERE u.id = $1");
        client.query_opt(&sql, &[&id]).await?.map(|row| person(&row)).transpose()
    }

    /// The person of this address, however it is written.
    pub async fn person_at(&self, email: &str) -> Result<Option<Person>, StoreError> {
        let client = self.client().await?;
        by_email(&client, email).await
    }

    /// The person of this id or, if nobody has it, of this address.
    pub async fn person_named(&self, named: &str) -> Result<Option<Person>, StoreError> {
        let client = self.client().await?;
        let sql = format!("{PERSON} WHERE u.id = $1 OR lower(u.email) = lower($1) ORDER BY (u.id = $1) DESC LIMIT 1");
        client.query_opt(&sql, &[&named]).await?.map(|row| person(&row)).transpose()
    }
}

/// The person of this address, as a transaction sees them.
pub async fn by_email(client: &Client, email: &str) -> Result<Option<Person>, StoreError> {
    let sql = format!("{PERSON} WHERE lower(u.email) = lower($1)");
    client.query_opt(&sql, &[&email]).await?.map(|row| person(&row)).transpose()
}

/// The person of this id, whom nobody else changes until the transaction has ended.
pub async fn locked(client: &Client, id: &str) -> Result<Option<Person>, StoreError> {
    let sql = format!("{PERSON} WHERE u.id = $1 FOR NO KEY UPDATE OF u");
    client.query_opt(&sql, &[&id]).await?.map(|row| person(&row)).transpose()
}

/// The person of this id, who stays as they are until the transaction has ended; others may look, too.
pub async fn held(client: &Client, id: &str) -> Result<Option<Person>, StoreError> {
    let sql = format!("{PERSON} WHERE u.id = $1 FOR SHARE OF u");
    client.query_opt(&sql, &[&id]).await?.map(|row| person(&row)).transpose()
}

/// Adds a person. False, and nothing is changed, if the id or the address is taken. Documents that came from the address
/// before belong to the person from now on.
pub async fn create(client: &Client, person: &Person) -> Result<bool, StoreError> {
    let manager = person.manager.as_ref().map(|manager| &manager.id);
    let attributes = Value::Object(person.attributes.clone());
    let sql = "INSERT INTO app_user (id, email, display_name, status, attributes, manager_id)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&person.id, &person.email, &person.display_name, &person.status, &attributes, &manager];
    if client.execute(sql, values).await? == 0 {
        return Ok(false);
    }
    let adopt = "UPDATE document SET user_id = $1 WHERE user_id IS NULL AND lower(email) = lower($2)";
    client.execute(adopt, &[&person.id, &person.email]).await?;
    Ok(true)
}

/// Writes everything that can change of a person.
pub async fn update(client: &Client, person: &Person) -> Result<(), StoreError> {
    let manager = person.manager.as_ref().map(|manager| &manager.id);
    let attributes = Value::Object(person.attributes.clone());
    let sql = "UPDATE app_user SET email = $2, display_name = $3, status = $4, attributes = $5, manager_id = $6
        WHERE id = $1";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&person.id, &person.email, &person.display_name, &person.status, &attributes, &manager];
    client.execute(sql, values).await.map(drop)
}

fn person(row: &Row) -> Result<Person, StoreError> {
    let attributes: Value = row.try_get("attributes")?;
    let manager = match row.try_get::<_, Option<String>>("manager_id")? {
        None => None,
        Some(id) => Some(Manager {
            id,
            email: row.try_get("manager_email")?,
            display_name: row.try_get("manager_name")?,
            status: row.try_get("manager_status")?,
        }),
    };
    Ok(Person {
        id: row.try_get("id")?,
        email: row.try_get("email")?,
        display_name: row.try_get("display_name")?,
        status: row.try_get("status")?,
        attributes: attributes.as_object().cloned().unwrap_or_default(),
        manager,
    })
}
