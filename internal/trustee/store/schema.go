// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations take an empty database to the current schema, one step a version; PRAGMA user_version says how many were
// taken. A step that was released never changes.
var migrations = []string{
	// 1: values; values that expire; the log, whose digest column is what the writer of an entry computed over it.
	// Times are seconds since 1970.
	`CREATE TABLE value (
		ns      TEXT NOT NULL,
		key     TEXT NOT NULL,
		updated INTEGER NOT NULL,
		sealed  BLOB NOT NULL,
		UNIQUE (ns, key)
	 );
	 CREATE TABLE expiring (
		ns      TEXT NOT NULL,
		key     TEXT NOT NULL,
		expires INTEGER NOT NULL,
		sealed  BLOB NOT NULL,
		UNIQUE (ns, key)
	 );
	 CREATE INDEX expiring_by_time ON expiring (expires);
	 CREATE TABLE log (
		id     INTEGER PRIMARY KEY,
		body   BLOB NOT NULL,
		digest BLOB NOT NULL
	 );`,
}

func migrate(ctx context.Context, conn *sql.Conn) error {
	var version int
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if version > len(migrations) {
		return fmt.Errorf("the database has schema version %d, this program knows %d: it was written by a newer "+
			"nacre-trustee; use that one",
			version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		step := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", migrations[version], version+1)
		if _, err := conn.ExecContext(ctx, step); err != nil {
			return fmt.Errorf("take the database to schema version %d: %w", version+1, err)
		}
	}
	return nil
}
