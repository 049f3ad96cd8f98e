// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Namespace keeps the keys of one kind of thing apart from all others'.
type Namespace string

// own is the store's own namespace.
const own Namespace = "store"

const (
	checkKey = "check"    // a known value: opens only with the key of this database
	headKey  = "log-head" // id and digest of the log's last entry
)

// Limits of what the store takes, in bytes.
const (
	MaxKey   = 1024
	MaxValue = 16 << 20
)

var (
	// ErrNotFound says that there is no such value, or that it has expired.
	ErrNotFound = errors.New("not found")
	// ErrExists says that the key is taken already.
	ErrExists = errors.New("exists already")
	// ErrPast says that the time until which a value was to be kept is over.
	ErrPast = errors.New("its time is over")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("the store is closed")
)

// Options say where a store lies.
type Options struct {
	Dir     string // data directory; made with mode 0700 when absent
	KeyFile string // made with mode 0600 when absent; must not lie below Dir
	// UnsafeKeyBesideData accepts a key file below Dir: a copy of the data then carries its key.
	UnsafeKeyBesideData bool
	Now                 func() time.Time // nil: time.Now
}

// Store is an open store. Its methods may be called at the same time.
type Store struct {
	seal  sealer
	now   func() time.Time
	lock  *os.File
	write *sql.DB
	read  *sql.DB

	get, getExpiring, list, entries *sql.Stmt

	jobs    chan *job
	closing chan struct{}
	once    sync.Once
	done    chan struct{}
	failed  error // of the writer's end; read after done
}

// Open opens the store below the options' directory, or makes a new one. It fails when another process has it open.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	info, err := os.Stat(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("inspect the data directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("the data directory %s is not a directory", o.Dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the data directory %s has mode %04o: others than its owner can enter it; "+
			"run `chmod 700 %[1]s`",
			o.Dir, info.Mode().Perm())
	}
	s := &Store{now: o.Now, jobs: make(chan *job, maxBatch), closing: make(chan struct{}), done: make(chan struct{})}
	if s.now == nil {
		s.now = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if s.lock, err = lock(filepath.Join(o.Dir, "lock")); err != nil {
		return nil, err
	}
	database := filepath.Join(o.Dir, "trustee.db")
	present, err := made(database)
	if err != nil {
		return nil, fmt.Errorf("inspect the database: %w", err)
	}
	if _, err := os.Stat(o.KeyFile); present && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the database %s exists, its key file %s does not: put the key back (a new key "+
			"cannot open old values)",
			database, o.KeyFile)
	}
	key, err := loadKey(o.KeyFile, o.Dir, o.UnsafeKeyBesideData)
	if err != nil {
		return nil, err
	}
	if s.seal, err = newSealer(key); err != nil {
		return nil, fmt.Errorf("prepare the key: %w", err)
	}
	if err := s.open(ctx, database); err != nil {
		return nil, fmt.Errorf("open the database %s: %w", database, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, database string) error {
	absolute, err := filepath.Abs(database)
	if err != nil {
		return err
	}
	dsn := func(pragmas ...string) string {
		q := url.Values{"_pragma": append(pragmas, "busy_timeout(10000)", "trusted_schema(0)", "temp_store(MEMORY)")}
		return (&url.URL{Scheme: "file", Path: absolute, RawQuery: q.Encode()}).String()
	}
	if s.write, err = sql.Open("sqlite", dsn("journal_mode(WAL)", "synchronous(FULL)")); err != nil {
		return err
	}
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	if err := migrate(ctx, conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	w, err := newWriter(ctx, conn, s.seal, s.now)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := w.checkKey(); err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := w.loadHead(); err != nil {
		return errors.Join(err, conn.Close())
	}
	if s.read, err = sql.Open("sqlite", dsn("query_only(1)")); err != nil {
		return errors.Join(err, conn.Close())
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.get, `SELECT sealed FROM value WHERE ns = ? AND key = ?`},
		{&s.getExpiring, `SELECT sealed FROM expiring WHERE ns = ? AND key = ? AND expires > ?`},
		{&s.list, `SELECT key, length(sealed), updated FROM value
			WHERE ns = ? AND key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?`},
		{&s.entries, `SELECT id, body, digest FROM log WHERE id > ? ORDER BY id LIMIT ?`},
	} {
		if *p.stmt, err = s.read.PrepareContext(ctx, p.text); err != nil { //nolint:sqlclosecheck // by s.read.Close
			return errors.Join(err, conn.Close())
		}
	}
	go s.run(w)
	return nil
}

// made says whether there is a database already, and otherwise makes an empty file for it (SQLite would use the
// process's umask).
func made(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return info.Size() > 0, nil
}

// lock takes the directory for this process. The kernel drops the lock when the process ends, however it ends.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process has the data directory %s open; stop it, or name "+
				"another directory", filepath.Dir(path))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Close ends the writer after what was handed to it before, and closes the database. A second call does nothing.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		<-s.done
		err = errors.Join(s.failed, s.release())
	})
	return err
}

func (s *Store) release() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Get returns the value of a key, or ErrNotFound.
func (s *Store) Get(ctx context.Context, ns Namespace, key string) ([]byte, error) {
	var sealed []byte
	if err := s.get.QueryRowContext(ctx, string(ns), key).Scan(&sealed); err != nil {
		return nil, readError(ns, key, err)
	}
	return s.seal.open(kindValue, ns, key, sealed)
}

// GetExpiring returns the value of a key of the expiring kind, or ErrNotFound when there is none or its time is over.
func (s *Store) GetExpiring(ctx context.Context, ns Namespace, key string) ([]byte, error) {
	var sealed []byte
	if err := s.getExpiring.QueryRowContext(ctx, string(ns), key, s.now().Unix()).Scan(&sealed); err != nil {
		return nil, readError(ns, key, err)
	}
	return s.seal.open(kindExpiring, ns, key, sealed)
}

func readError(ns Namespace, key string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return fmt.Errorf("read %s/%s: %w", ns, key, err)
}

// Info describes a value without opening it.
type Info struct {
	Key     string
	Size    int // of the value, in bytes
	Updated time.Time
}

// List describes at most limit values of a namespace whose keys begin with prefix and come after the one given, in
// the order of their bytes.
func (s *Store) List(ctx context.Context, ns Namespace, prefix, after string, limit int) ([]Info, error) {
	rows, err := s.list.QueryContext(ctx, string(ns), after, prefix, prefix+string(utf8.MaxRune), limit)
	if err != nil {
		return nil, fmt.Errorf("list the keys of %s: %w", ns, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err has what matters
	var list []Info
	for rows.Next() {
		var i Info
		var updated int64
		if err := rows.Scan(&i.Key, &i.Size, &updated); err != nil {
			return nil, fmt.Errorf("list the keys of %s: %w", ns, err)
		}
		i.Size -= s.seal.aead.Overhead()
		i.Updated = time.Unix(updated, 0).UTC()
		list = append(list, i)
	}
	return list, rows.Err()
}

// Entry is one entry of the log. Ids begin at 1 and have no gaps.
type Entry struct {
	ID     int64
	Body   []byte
	Digest []byte
}

// Entries returns at most limit entries of the log whose id is greater than after, in order.
func (s *Store) Entries(ctx context.Context, after int64, limit int) ([]Entry, error) {
	rows, err := s.entries.QueryContext(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read the log after entry %d: %w", after, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err has what matters
	var list []Entry
	for rows.Next() {
		var e Entry
		if err := rows.Scan(&e.ID, &e.Body, &e.Digest); err != nil {
			return nil, fmt.Errorf("read the log after entry %d: %w", after, err)
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

// Head returns id and digest of the log's last entry as they were sealed with the commit that wrote it; id 0 for an
// empty log.
func (s *Store) Head(ctx context.Context) (int64, []byte, error) {
	v, err := s.Get(ctx, own, headKey)
	if errors.Is(err, ErrNotFound) {
		return 0, nil, nil
	} else if err != nil {
		return 0, nil, err
	}
	return parseHead(v)
}

func formatHead(id int64, digest []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(id)), digest...)
}

func parseHead(v []byte) (int64, []byte, error) {
	if len(v) < 8 {
		return 0, nil, fmt.Errorf("the log's head has %d bytes", len(v))
	}
	return int64(binary.BigEndian.Uint64(v)), v[8:], nil
}
