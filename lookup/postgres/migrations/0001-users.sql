-- The user database, and the log of its changes.

CREATE TABLE switchyard.users (
	name       text COLLATE "C" PRIMARY KEY,
	hash       text NOT NULL DEFAULT '',
	labels     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
	-- A row whose account was deleted stays while the account had a
	-- generation, so that one made anew under its name goes on from there.
	live       boolean NOT NULL DEFAULT true,
	-- The newest generation that an account of this name had; an unsigned
	-- number of 64 bits.
	generation numeric(20, 0) NOT NULL DEFAULT 0 CHECK (generation BETWEEN 0 AND 18446744073709551615),
	updated    timestamptz NOT NULL DEFAULT now()
);

-- The one row of feed is locked by whoever changes users, from the end of the
-- change's statement to its commit: so changes become visible in the order of
-- their numbers, and no number is left out.
CREATE TABLE switchyard.feed (
	one  boolean PRIMARY KEY DEFAULT true CHECK (one),
	seq  bigint NOT NULL, -- of the newest change
	keep bigint NOT NULL  -- how many changes the log has at least
);

-- An empty name says that any account may have changed. The id tells a change
-- from another one that got its number after the database went back in time:
-- restored, or failed over to a standby that was behind.
CREATE TABLE switchyard.changes (
	seq      bigint PRIMARY KEY,
	id       uuid NOT NULL DEFAULT gen_random_uuid(),
	name     text COLLATE "C" NOT NULL,
	sessions boolean NOT NULL,
	at       timestamptz NOT NULL DEFAULT now()
);

INSERT INTO switchyard.feed (seq, keep) VALUES (0, 100000);
INSERT INTO switchyard.changes (seq, name, sessions) VALUES (0, '', true);

-- may_login is what the status words mean to logins.
CREATE FUNCTION switchyard.may_login(labels jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
	SELECT lower(coalesce(labels ->> 'mailstatus', '')) IN ('', 'ok', 'good', 'paydue')
$$;

-- log_changes notes the changes of one statement, whoever made it. More than
-- 1,000 at once are noted as one that says "any". A change bears on sessions
-- when it ends the account, its password, its home or its right to log in; with
-- switchyard.quiet, a new hash is that of the same password.
CREATE FUNCTION switchyard.log_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	most  constant integer := 1000;
	quiet constant boolean := coalesce(current_setting('switchyard.quiet', true), '') = 'on';
	names text[];
	ends  boolean[];
	n     bigint;
	last  bigint;
	least bigint;
BEGIN
	IF TG_OP = 'INSERT' THEN
		SELECT array_agg(c.name), array_agg(false) INTO names, ends
		FROM (SELECT w.name FROM new_rows w WHERE w.live LIMIT most + 1) c;
	ELSIF TG_OP = 'UPDATE' THEN
		SELECT array_agg(c.name), array_agg(c.sessions) INTO names, ends
		FROM (
			SELECT coalesce(w.name, o.name) AS name,
				w.name IS NULL OR coalesce(o.live, false) AND (
					NOT w.live
					OR w.hash <> o.hash AND NOT quiet
					OR w.labels ->> 'tohost' IS DISTINCT FROM o.labels ->> 'tohost'
					OR switchyard.may_login(w.labels) <> switchyard.may_login(o.labels)) AS sessions
			FROM new_rows w FULL JOIN old_rows o ON w.name = o.name
			WHERE (w.live, w.hash, w.labels, w.generation) IS DISTINCT FROM (o.live, o.hash, o.labels, o.generation)
			LIMIT most + 1
		) c;
	ELSIF TG_OP = 'DELETE' THEN
		SELECT array_agg(c.name), array_agg(true) INTO names, ends
		FROM (SELECT o.name FROM old_rows o WHERE o.live LIMIT most + 1) c;
	ELSE -- TRUNCATE
		names := ARRAY['']; ends := ARRAY[true];
	END IF;
	n := coalesce(cardinality(names), 0);
	IF n = 0 THEN
		RETURN NULL;
	END IF;
	IF n > most THEN
		names := ARRAY['']; ends := ARRAY[true]; n := 1;
	END IF;
	UPDATE switchyard.feed SET seq = seq + n RETURNING seq, seq - keep INTO last, least;
	INSERT INTO switchyard.changes (seq, name, sessions)
		SELECT last - n + c.i, c.name, c.sessions
		FROM unnest(names, ends) WITH ORDINALITY AS c (name, sessions, i);
	DELETE FROM switchyard.changes WHERE seq <= least AND seq < last;
	PERFORM pg_notify('switchyard', last::text);
	RETURN NULL;
END $$;

CREATE TRIGGER users_added AFTER INSERT ON switchyard.users
	REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION switchyard.log_changes();
CREATE TRIGGER users_changed AFTER UPDATE ON switchyard.users
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION switchyard.log_changes();
CREATE TRIGGER users_deleted AFTER DELETE ON switchyard.users
	REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION switchyard.log_changes();
CREATE TRIGGER users_truncated AFTER TRUNCATE ON switchyard.users
	FOR EACH STATEMENT EXECUTE FUNCTION switchyard.log_changes();
