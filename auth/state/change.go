package state

import (
	"context"
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
)

// writer is shared by the types that change records. It reads, and it commits changes.
type writer struct {
	*Reader
	store *raftstore.Store
}

// change collects what one transaction does: its conditions, its writes and its events. The methods of table
// add to it, and writer.commit carries it out. The zero value does nothing. An error while collecting is kept
// in err, so that callers check for errors only after commit.
type change struct {
	txn      raftstore.Txn
	events   []audit.Event // commit adds them to txn
	conflict *fault.Error  // what commit returns when a condition fails; nil: a general message
	err      error         // the first error while collecting; commit returns it and writes nothing
}

// require adds a condition on which the whole change depends.
func (c *change) require(cond raftstore.Condition) { c.txn.If = append(c.txn.If, cond) }

// setErr keeps the first error.
func (c *change) setErr(err error) {
	if c.err == nil {
		c.err = err
	}
}

// appendRecord adds v, as JSON, to the records that the change appends to a stream.
func (c *change) appendRecord(stream string, v any) {
	b, err := json.Marshal(v)
	c.setErr(err)
	c.appendBytes(stream, b)
}

// appendBytes adds a record to those that the change appends to a stream.
func (c *change) appendBytes(stream string, b []byte) {
	for i, a := range c.txn.Append {
		if a.Stream == stream {
			c.txn.Append[i].Records = append(a.Records, b)
			return
		}
	}
	c.txn.Append = append(c.txn.Append, raftstore.Append{Stream: stream, Records: [][]byte{b}})
}

// appendEvents adds audit events. An event that is not well formed makes the whole change fail.
func (c *change) appendEvents(events ...audit.Event) { c.events = append(c.events, events...) }

// encodeEvents adds the events to the transaction. An event without an id gets one. One that no machine sent
// is said by replica.
func (c *change) encodeEvents(replica audit.Machine) {
	for _, e := range c.events {
		if e.ID == "" {
			e.ID = NewID()
		}
		if e.SaidBy == (audit.Machine{}) {
			e.SaidBy = replica
		}
		b, err := e.Encode()
		c.setErr(err)
		c.appendBytes(auditStream, b)
	}
}

// create writes a record that must not exist yet.
func (t table[T]) create(c *change, key string, v T) {
	t.requireMissing(c, key)
	t.set(c, key, v)
}

// replace writes v over old, which must be unchanged since it was read. The record keeps its lease, and the
// fields that a newer release has written into it.
func (t table[T]) replace(c *change, old Stored[T], v T) {
	t.requireUnchanged(c, old)
	b, err := encodeOver(old.item.Value, v)
	c.setErr(err)
	t.put(c, old.Key, b, old.item.Lease)
}

// replaceOrCreate writes v over old. An old that was never stored (Revision 0) must still be missing.
func (t table[T]) replaceOrCreate(c *change, old Stored[T], v T) {
	if old.Revision == 0 {
		t.create(c, old.Key, v)
		return
	}
	t.replace(c, old, v)
}

// set writes v without a condition.
func (t table[T]) set(c *change, key string, v T) { t.setLeased(c, key, v, 0) }

// setLeased writes v without a condition. The store deletes the record when the lease ends.
func (t table[T]) setLeased(c *change, key string, v T, lease raftstore.LeaseID) {
	b, err := encode(v)
	c.setErr(err)
	t.put(c, key, b, lease)
}

// put writes an encoded record.
func (t table[T]) put(c *change, key string, b []byte, lease raftstore.LeaseID) {
	w := raftstore.Put(t.prefix+key, b)
	w.Lease = lease
	c.txn.Then = append(c.txn.Then, w)
}

// remove deletes old, which must be unchanged since it was read.
func (t table[T]) remove(c *change, old Stored[T]) {
	t.requireUnchanged(c, old)
	t.deleteKey(c, old.Key)
}

// deleteKey deletes the record under key, if there is one.
func (t table[T]) deleteKey(c *change, key string) {
	c.txn.Then = append(c.txn.Then, raftstore.Delete(t.prefix+key))
}

// requireMissing makes the whole change fail if there is a record under key when it is committed.
func (t table[T]) requireMissing(c *change, key string) { c.require(raftstore.Missing(t.prefix + key)) }

// requireUnchanged makes the whole change fail if old was written or removed since it was read.
func (t table[T]) requireUnchanged(c *change, old Stored[T]) {
	c.require(raftstore.Unchanged(old.item))
}

// result describes a change that was committed.
type result struct {
	Revision uint64
	Time     time.Time // the leader's clock in the command: the same on every replica
}

// commit carries the change out as a whole or not at all. It returns fault Conflict, or c.conflict where that
// is set, when a condition does not hold; nothing is written then.
func (w writer) commit(ctx context.Context, c *change) (result, error) {
	c.encodeEvents(audit.Machine{Kind: identity.Auth, Name: w.store.ReplicaID()})
	if c.err != nil {
		return result{}, c.err
	}
	committed, err := w.store.Commit(ctx, c.txn)
	if fault.Is(err, fault.Conflict) {
		conflict := c.conflict
		if conflict == nil {
			conflict = conflictFault("state.commit")
		}
		return result{}, conflict.Because(err)
	}
	if err != nil {
		return result{}, err
	}
	return result{Revision: uint64(committed.Revision), Time: committed.Time}, nil
}

// conflictFault is the fault of a change whose conditions do not hold any more.
func conflictFault(op string) *fault.Error {
	return storeConflict.New(op)
}

// maxAttempts bounds how often retryOnConflict tries.
const maxAttempts = 8

// retryOnConflict calls attempt until it returns something else than fault Conflict, at most maxAttempts
// times, and returns its last error. Each call of attempt must read again what its conditions compare with.
func retryOnConflict(attempt func() error) error {
	var err error
	for range maxAttempts {
		if err = attempt(); !fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return err
}
