-- What an API server would have written: a run that made no progress for two hours, three audit rows, and the people and the
-- role that a workflow needs.
SET search_path = floh_worker;

WITH definition AS (
    INSERT INTO workflow_definition (name, status, definition)
        VALUES ('onboarding', 'active', '{"name": "onboarding", "steps": []}') RETURNING id
), run AS (
    INSERT INTO workflow_run (definition_id, status, submitter_id, current_step, started_at, updated_at)
        SELECT id, 'running', 'u-17', 'grant-role', now() - interval '2 hours', now() - interval '2 hours' FROM definition
        RETURNING id
)
INSERT INTO workflow_step (run_id, step_id, type, status, started_at)
    SELECT id, 'grant-role', 'role_grant', 'running', now() - interval '2 hours' FROM run;

INSERT INTO audit_log (entity, entity_id, action, actor, actor_id, new_state, ip_address) VALUES
    ('role', 'r-3', 'role.requested', 'Ada', 'u-17', '{"role": "auditor"}', '192.0.2.7'),
    ('role', 'r-3', 'role.approved', 'Grace', 'u-2', '{"role": "auditor"}', '192.0.2.9'),
    ('user', 'u-17', 'user.login', 'Ada', 'u-17', NULL, '192.0.2.7');

INSERT INTO app_user (id, email, display_name, manager_id) VALUES
    ('u-2', 'grace@example.org', 'Grace', NULL),
    ('u-5', 'mary@example.org', 'Mary', 'u-2'),
    ('u-17', 'ada@example.org', 'Ada', 'u-2');
INSERT INTO role (id, name) VALUES ('r-room', 'project-room');
-- Who has it has handed in this document before.
INSERT INTO role_required_document VALUES ('r-room', 'confidentiality-agreement');
