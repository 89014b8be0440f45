package raftstore

import (
	"math"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// Limits of a transaction. They bound what one call can cost every replica. Commit returns fault Invalid for
// more. They may grow together with a new kind of operation, but never shrink: a replica halts on a log entry
// that exceeds them.
const (
	MaxKeyBytes        = 1 << 10  // a key
	MaxValueBytes      = 1 << 20  // a value
	MaxRecordBytes     = 64 << 10 // one record of a stream
	MaxStreamNameBytes = 128      // a stream's name: a-z 0-9 . _ - /
	MaxStreams         = 1024     // streams in one store, since each may hold a file open
	MaxCommandBytes    = 4 << 20  // one log entry, so also one transaction
)

// Revision is an index of the raft log. It only grows; 0 means "never".
type Revision uint64

// anyRevision in a Condition means that the key exists, whatever its revision. No log reaches this index.
const anyRevision Revision = math.MaxUint64

// LeaseID identifies a lease; 0 means none.
type LeaseID uint64

// Item is a key with its value. It is the caller's own copy.
type Item struct {
	Key      string
	Value    []byte
	Created  Revision // when the key was created, for the last time if it was deleted between
	Modified Revision // the last write; one revision never holds two writes of a key
	Lease    LeaseID  // the item is removed when this lease ends; 0 means none
}

// Condition holds when the key's Modified equals Modified, or, with 0, when there is no such key.
type Condition struct {
	Key      string
	Modified Revision
}

// Missing holds when the key is absent.
func Missing(key string) Condition { return Condition{Key: key} }

// Unchanged holds when nobody wrote or deleted the item since it was read.
func Unchanged(it Item) Condition { return Condition{Key: it.Key, Modified: it.Modified} }

// Exists holds when the key is present, whatever its revision.
func Exists(key string) Condition { return Condition{Key: key, Modified: anyRevision} }

// Write sets or deletes one key. To delete an absent key is no error. A transaction with a Lease that has
// ended is refused.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
	Lease  LeaseID
}

// Put sets key to value.
func Put(key string, value []byte) Write { return Write{Key: key, Value: value} }

// Delete removes key.
func Delete(key string) Write { return Write{Key: key, Delete: true} }

// Append adds records to the end of a stream. A stream is created with its first record.
type Append struct {
	Stream  string
	Records [][]byte
}

// Trim drops the oldest records of a stream: those segments whose records are all below the number Before. It
// never drops the last segment. What stays can be checked against the digest of what was dropped.
type Trim struct {
	Stream string
	Before uint64
}

// Txn writes Then, Append and Trim when every condition of If holds, and otherwise nothing. It may write each
// key at most one time. Records are appended before streams are trimmed.
type Txn struct {
	If     []Condition
	Then   []Write
	Append []Append
	Trim   []Trim
}

// Result describes a committed transaction.
type Result struct {
	Revision Revision
	First    []uint64  // number of the first record of each Append; 0 for an Append without records
	Time     time.Time // the leader's clock; never earlier than that of any revision before
}

// check returns a fault when t can never succeed, whatever the state is.
func (t Txn) check() error {
	for _, c := range t.If {
		if err := checkKey(c.Key); err != nil {
			return err
		}
	}
	seen := make(map[string]struct{}, len(t.Then))
	for _, w := range t.Then {
		if err := w.check(); err != nil {
			return err
		}
		if _, twice := seen[w.Key]; twice {
			return invalidFault("it writes the key " + quote(w.Key) + " twice")
		}
		seen[w.Key] = struct{}{}
	}
	for _, a := range t.Append {
		if err := a.check(); err != nil {
			return err
		}
	}
	for _, trim := range t.Trim {
		if err := checkStream(trim.Stream); err != nil {
			return err
		}
	}
	return nil
}

func (w Write) check() error {
	if len(w.Value) > MaxValueBytes {
		return invalidFault("the value of " + quote(w.Key) + " is over 1 MiB")
	}
	if w.Delete && (len(w.Value) > 0 || w.Lease != 0) {
		return invalidFault("a delete of " + quote(w.Key) + " has a value or a lease")
	}
	return checkKey(w.Key)
}

func (a Append) check() error {
	for _, r := range a.Records {
		if len(r) > MaxRecordBytes {
			return invalidFault("a record of stream " + quote(a.Stream) + " is over 64 KiB")
		}
	}
	return checkStream(a.Stream)
}

func checkKey(key string) error {
	if key == "" || len(key) > MaxKeyBytes {
		return invalidFault("a key has 1 to 1024 bytes")
	}
	return nil
}

func checkStream(name string) error {
	if name == "" || len(name) > MaxStreamNameBytes {
		return invalidFault("a stream's name has 1 to 128 bytes")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' && c != '/' {
			return invalidFault("a stream's name may have only a-z, 0-9, '.', '_', '-' and '/'")
		}
	}
	return nil
}

func invalidFault(why string) error {
	return transactionInvalid.New("raftstore.Commit", fault.Args{"why": why})
}
