package postgres

import (
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/postgres/postgrestest"
)

// testKeys holds the database against what all key holders promise.
func testKeys(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	passwords := quickPasswords()
	passwords.Keys = hash.Keys
	lookuptest.RunKeys(t, lookuptest.KeyFixture{Open: func(t *testing.T, hashes map[string]string) lookup.KeyHolder {
		postgrestest.ExecSQL(t, dsn, `DROP SCHEMA IF EXISTS switchyard CASCADE`)
		db, err := Open(t.Context(), dsn, passwords, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		for name, hash := range hashes {
			_, err := db.pool.Exec(t.Context(), `INSERT INTO switchyard.users (name, hash) VALUES ($1, $2)`, name, hash)
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.pool.Exec(t.Context(), `INSERT INTO switchyard.users (name, hash, live) VALUES ('gone@example.test', '{MD5}', false)`); err != nil {
			t.Fatal(err)
		}
		return db
	}})
	// Without a reader nobody has keys, and that is not "absent".
	db := open(t, dsn, Options{})
	if got, err := db.KeyMechanisms(t.Context()); err != nil || got != nil {
		t.Errorf("mechanisms without a reader: got %v, %v", got, err)
	}
}
