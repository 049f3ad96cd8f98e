// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxBatch bounds how many transactions share a commit, and so how long the first of them waits.
	maxBatch = 256
	// pruneEvery and pruneRows bound the work of removing what has expired.
	pruneEvery = time.Second
	pruneRows  = 512
)

const (
	kindValue    = "value"
	kindExpiring = "expiring"
)

// job is a transaction that waits for the writer.
type job struct {
	change func(*Tx) error
	result chan error
}

// Update runs change as one transaction and returns when it has reached stable storage, or change's error when it was
// undone. Change runs on the writer's goroutine while everybody waits: it must be short and must not call the store.
// It may run more than once, with what it did before undone.
//
// Ctx bounds the wait for a place in the queue. From then on Update waits for the outcome, so that its caller always
// knows it.
func (s *Store) Update(ctx context.Context, change func(*Tx) error) error {
	j := &job{change: change, result: make(chan error, 1)}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.jobs <- j:
	case <-s.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-j.result:
		return err
	case <-s.done:
		// The writer may have answered just before it ended.
		select {
		case err := <-j.result:
			return err
		default:
			return ErrClosed
		}
	}
}

// run is the writer's goroutine.
func (s *Store) run(w *writer) {
	defer close(s.done)
	defer func() { s.failed = w.conn.Close() }()
	batch := make([]*job, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
		case <-s.closing:
			select {
			case j := <-s.jobs:
				batch = append(batch, j)
			default:
				return
			}
		}
	more:
		for len(batch) < maxBatch {
			select {
			case j := <-s.jobs:
				batch = append(batch, j)
			default:
				break more
			}
		}
		for i, err := range w.commit(batch) {
			batch[i].result <- err
		}
	}
}

// writer owns the one connection that writes.
type writer struct {
	conn *sql.Conn
	seal sealer
	now  func() time.Time

	begin, commitStmt, rollback, savepoint, release, undo   *sql.Stmt
	get, put, putNew, remove, insertExpiring, append, prune *sql.Stmt

	headID     int64
	headDigest []byte
	pruned     time.Time
	errs       []error
}

func newWriter(ctx context.Context, conn *sql.Conn, seal sealer, now func() time.Time) (*writer, error) {
	w := &writer{conn: conn, seal: seal, now: now}
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.begin, `BEGIN IMMEDIATE`},
		{&w.commitStmt, `COMMIT`},
		{&w.rollback, `ROLLBACK`},
		{&w.savepoint, `SAVEPOINT job`},
		{&w.release, `RELEASE job`},
		{&w.undo, `ROLLBACK TO job`},
		{&w.get, `SELECT sealed FROM value WHERE ns = ? AND key = ?`},
		{&w.put, `INSERT INTO value (ns, key, updated, sealed) VALUES (?, ?, ?, ?)
			ON CONFLICT (ns, key) DO UPDATE SET updated = excluded.updated, sealed = excluded.sealed`},
		{&w.putNew, `INSERT INTO value (ns, key, updated, sealed) VALUES (?, ?, ?, ?)
			ON CONFLICT (ns, key) DO NOTHING`},
		{&w.remove, `DELETE FROM value WHERE ns = ? AND key = ?`},
		{&w.insertExpiring, `INSERT INTO expiring (ns, key, expires, sealed) VALUES (?, ?, ?, ?)
			ON CONFLICT (ns, key) DO UPDATE SET expires = excluded.expires, sealed = excluded.sealed
			WHERE expiring.expires <= ?`},
		{&w.append, `INSERT INTO log (id, body, digest) VALUES (?, ?, ?)`},
		{&w.prune, `DELETE FROM expiring WHERE rowid IN
			(SELECT rowid FROM expiring WHERE expires <= ? ORDER BY expires LIMIT ?)`},
	} {
		var err error
		if *p.stmt, err = conn.PrepareContext(ctx, p.text); err != nil { //nolint:sqlclosecheck // by conn.Close
			return nil, err
		}
	}
	return w, nil
}

// checkKey tells a wrong key from a damaged value: a known value was sealed when the database was made.
func (w *writer) checkKey() error {
	err := w.commit([]*job{{change: func(tx *Tx) error {
		_, err := tx.Get(own, checkKey)
		if errors.Is(err, ErrNotFound) {
			return tx.Put(own, checkKey, []byte(keyPrefix))
		}
		return err
	}}})[0]
	if err != nil {
		return fmt.Errorf("the key file does not belong to this database (or the database is damaged); name the "+
			"key it was made with: %w", err)
	}
	return nil
}

// loadHead finds the log's end and compares it with the sealed note of it, so that entries cut off the end do not go
// unnoticed.
func (w *writer) loadHead() error {
	var id int64
	var digest []byte
	err := w.conn.QueryRowContext(context.Background(),
		`SELECT id, digest FROM log ORDER BY id DESC LIMIT 1`).Scan(&id, &digest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the log's end: %w", err)
	}
	var sealedID int64
	var sealedDigest []byte
	var sealed []byte
	switch err := w.get.QueryRowContext(context.Background(), string(own), headKey).Scan(&sealed); {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return fmt.Errorf("read the note of the log's end: %w", err)
	default:
		v, err := w.seal.open(kindValue, own, headKey, sealed)
		if err != nil {
			return err
		}
		if sealedID, sealedDigest, err = parseHead(v); err != nil {
			return err
		}
	}
	if id != sealedID || !bytes.Equal(digest, sealedDigest) {
		return fmt.Errorf("the audit log ends at entry %d, but entry %d was the last that the trustee wrote: "+
			"somebody changed the database; "+
			"keep it for inspection and restore a backup", id, sealedID)
	}
	w.headID, w.headDigest = id, digest
	return nil
}

// commit runs the jobs in one database transaction and returns the error of each. A job that fails is undone alone;
// when the commit fails, all have failed.
//
// Jobs hardly ever fail after they have written something. So all run without a mark to return to, which costs more
// than many a change; only when one has failed so is everything undone and run again with marks.
func (w *writer) commit(batch []*job) []error {
	w.errs = append(w.errs[:0], make([]error, len(batch))...)
	headID, headDigest := w.headID, w.headDigest
	err := w.attempt(batch, false)
	if errors.Is(err, errRunAgain) {
		w.undoAll(headID, headDigest)
		err = w.attempt(batch, true)
	}
	if err != nil {
		w.undoAll(headID, headDigest)
		for i := range w.errs {
			w.errs[i] = fmt.Errorf("commit to the database: %w", err)
		}
	}
	return w.errs
}

func (w *writer) undoAll(headID int64, headDigest []byte) {
	_, _ = exec(w.rollback) // there may be nothing to roll back
	w.headID, w.headDigest = headID, headDigest
}

// exec runs a statement of the writer's to its end: a transaction belongs to several callers, and none of them can
// interrupt it.
func exec(s *sql.Stmt, args ...any) (sql.Result, error) {
	return s.ExecContext(context.Background(), args...)
}

// errRunAgain says that a job failed half way, in a transaction without marks.
var errRunAgain = errors.New("a job must be undone")

func (w *writer) attempt(batch []*job, marked bool) error {
	if _, err := exec(w.begin); err != nil {
		return err
	}
	start := w.headID
	for i, j := range batch {
		if err := w.runJob(i, j, marked); err != nil {
			return err
		}
	}
	if w.headID != start {
		if err := (&Tx{w: w}).Put(own, headKey, formatHead(w.headID, w.headDigest)); err != nil {
			return err
		}
	}
	if now := w.now(); now.Sub(w.pruned) >= pruneEvery {
		w.pruned = now
		if _, err := exec(w.prune, now.Unix(), pruneRows); err != nil {
			return err
		}
	}
	_, err := exec(w.commitStmt)
	return err
}

// runJob runs one job of a batch and notes its error. What it returns is the batch's.
func (w *writer) runJob(i int, j *job, marked bool) error {
	headID, headDigest := w.headID, w.headDigest
	if marked {
		if _, err := exec(w.savepoint); err != nil {
			return err
		}
	}
	tx := &Tx{w: w}
	if w.errs[i] = change(j, tx); w.errs[i] != nil && tx.wrote {
		if !marked {
			return errRunAgain
		}
		if _, err := exec(w.undo); err != nil {
			return err
		}
		w.headID, w.headDigest = headID, headDigest
	}
	if marked {
		_, err := exec(w.release)
		return err
	}
	return nil
}

// change runs one job; a panic in it is its error, not the end of the process with other people's transactions half
// done.
func change(j *job, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a transaction: %v\n%s", p, debug.Stack())
		}
	}()
	return j.change(tx)
}

// Tx is a transaction. It must not be used after the function it was given to returns.
type Tx struct {
	w     *writer
	wrote bool
}

func checkPlace(ns Namespace, key string, value []byte) error {
	switch {
	case key == "" || len(key) > MaxKey || !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return fmt.Errorf("store into %s: a key is 1 to %d bytes of UTF-8 without NUL, this one has %d", ns, MaxKey,
			len(key))
	case len(value) > MaxValue:
		return fmt.Errorf("store %s/%s: %d bytes, at most %d", ns, key, len(value), MaxValue)
	}
	return nil
}

// Get returns the value of a key, or ErrNotFound.
func (tx *Tx) Get(ns Namespace, key string) ([]byte, error) {
	var sealed []byte
	if err := tx.w.get.QueryRowContext(context.Background(), string(ns), key).Scan(&sealed); err != nil {
		return nil, readError(ns, key, err)
	}
	return tx.w.seal.open(kindValue, ns, key, sealed)
}

// Put sets the value of a key.
func (tx *Tx) Put(ns Namespace, key string, value []byte) error {
	if err := checkPlace(ns, key, value); err != nil {
		return err
	}
	tx.wrote = true
	if _, err := exec(tx.w.put, string(ns), key, tx.w.now().Unix(),
		tx.w.seal.seal(kindValue, ns, key, value)); err != nil {
		return fmt.Errorf("store %s/%s: %w", ns, key, err)
	}
	return nil
}

// PutNew sets the value of a key that has none, or returns ErrExists.
func (tx *Tx) PutNew(ns Namespace, key string, value []byte) error {
	if err := checkPlace(ns, key, value); err != nil {
		return err
	}
	tx.wrote = true
	return inserted(exec(tx.w.putNew, string(ns), key, tx.w.now().Unix(), tx.w.seal.seal(kindValue, ns, key, value)))
}

// Delete removes a key, or returns ErrNotFound.
func (tx *Tx) Delete(ns Namespace, key string) error {
	tx.wrote = true
	r, err := exec(tx.w.remove, string(ns), key)
	if err != nil {
		return fmt.Errorf("delete %s/%s: %w", ns, key, err)
	}
	if n, err := r.RowsAffected(); err == nil && n == 0 {
		return ErrNotFound
	}
	return nil
}

// InsertExpiring sets the value of a key that has none until a time is reached (whole seconds), or returns ErrExists,
// or ErrPast when it was reached already. It is how something is used once: of all that insert the same key until the
// same time, one succeeds.
func (tx *Tx) InsertExpiring(ns Namespace, key string, value []byte, until time.Time) error {
	if err := checkPlace(ns, key, value); err != nil {
		return err
	}
	now := tx.w.now().Unix()
	if until.Unix() <= now { // the entry that was first may be gone
		return fmt.Errorf("store %s/%s: %w", ns, key, ErrPast)
	}
	sealed := tx.w.seal.seal(kindExpiring, ns, key, value)
	err := inserted(exec(tx.w.insertExpiring, string(ns), key, until.Unix(), sealed, now))
	tx.wrote = tx.wrote || !errors.Is(err, ErrExists)
	return err
}

func inserted(r sql.Result, err error) error {
	if err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	if n, err := r.RowsAffected(); err != nil {
		return fmt.Errorf("insert: %w", err)
	} else if n == 0 {
		return ErrExists
	}
	return nil
}

// Append adds an entry to the log. Compose gets the entry's id and the digest of the entry before it (nil for the
// first) and returns the entry's body and digest.
func (tx *Tx) Append(compose func(id int64, previous []byte) (body, digest []byte, err error)) error {
	id := tx.w.headID + 1
	body, digest, err := compose(id, tx.w.headDigest)
	if err != nil {
		return fmt.Errorf("compose log entry %d: %w", id, err)
	}
	tx.wrote = true
	if _, err := exec(tx.w.append, id, body, digest); err != nil {
		return fmt.Errorf("append log entry %d: %w", id, err)
	}
	tx.w.headID, tx.w.headDigest = id, digest
	return nil
}
