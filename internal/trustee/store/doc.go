// SPDX-License-Identifier: Apache-2.0

// Package store keeps what the trustee must not lose: sealed values, sealed values that expire, and one append-only
// log, in an SQLite database below the data directory.
//
// Every change is a transaction that has reached stable storage when Update returns (write-ahead log,
// synchronous=FULL). One goroutine writes; transactions that wait at the same time share a commit, and with it the
// one fsync (group commit), yet each fails alone. Reads run beside it on connections of their own.
//
// Values are sealed with AES-256-GCM under a key that lies in a file outside the data directory, with their namespace
// and key as associated data: who can write the database, but does not hold the key, can neither read a value nor put
// it in another's place. He can still remove a value, bring back one that was in the same place before (an older
// release policy, say) or the whole database as it was, and move expiry times; these, keys, namespaces and the log are
// in the clear.
//
// It trusts the directory's owner and the kernel. It knows nothing of what the values mean.
package store
