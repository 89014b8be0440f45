// Package state answers: what does the cluster know?
//
// It turns domain records into raftstore commands and back, and is the only room that imports raftstore.
// Every record is versioned JSON under a key prefix of its kind (table). What belongs together is gathered in
// a change and committed in one transaction, audit events included: a fact and its event are both there, or
// neither is. The files of this package are one kind of record each.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore"
)

// State is the cluster's knowledge. It is safe for concurrent use.
type State struct {
	store   *raftstore.Store
	roleSet atomic.Pointer[RoleSet] // the last one made; Rulebook checks whether it is still current
}

// New reads and writes through an open store.
func New(store *raftstore.Store) *State { return &State{store: store} }

// Linearize returns when what is read next shows every write acknowledged before the call; it fails when this
// replica does not lead.
func (s *State) Linearize(ctx context.Context) error { return s.store.Linearize(ctx) }

// Empty reports whether nothing was ever written: the cluster is unborn.
func (s *State) Empty(ctx context.Context) (bool, error) { return s.store.Empty(ctx) }

// Stored is a record and what is known of it.
type Stored[T any] struct {
	Key      string // without the prefix of its kind
	Value    T
	Revision uint64 // of its last write; what a compare-and-set compares
	item     raftstore.Item
}

// Page asks for the records after a key, at most Limit (0: 1000).
type Page struct {
	After string
	Limit int
}

// Listing is one page in the order of the keys. Next is the After of the next page, "" at the end.
type Listing[T any] struct {
	Items      []Stored[T]
	Next       string
	Unreadable []string // keys whose record this release cannot read: told, so that one of them never fails a list
	revision   raftstore.Revision
}

// table is one kind of record: T as JSON under prefix.
type table[T any] struct {
	prefix string // ends in "/"
	noun   string // for people: "role"
	remedy string // when there is none: "run: tsh get roles"
}

// recordVersion is what this release writes around every record. A record of a later version is refused, not
// guessed at.
const recordVersion = 1

// envelope is the stored form of a record. T itself only ever grows by fields that old releases may ignore.
type envelope[T any] struct {
	V int `json:"v"`
	D T   `json:"d"`
}

func encode[T any](v T) ([]byte, error) {
	b, err := json.Marshal(envelope[T]{V: recordVersion, D: v})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return b, nil
}

func decode[T any](b []byte) (T, error) {
	var e envelope[T]
	err := json.Unmarshal(b, &e)
	if e.V != 0 && (e.V < 1 || e.V > recordVersion) { // what else is wrong with it does not matter
		err = fmt.Errorf("it is of version %d, this release reads 1 to %d", e.V, recordVersion)
	}
	if err == nil && e.V == 0 {
		err = errors.New("it has no version")
	}
	if err != nil {
		return e.D, fmt.Errorf("decode record: %w", err)
	}
	return e.D, nil
}

// get returns the record, or fault NotFound.
func (t table[T]) get(ctx context.Context, s *State, key string) (Stored[T], error) {
	it, err := s.store.Get(ctx, t.prefix+key)
	if fault.Is(err, fault.NotFound) {
		return Stored[T]{}, fault.New(
			fault.NotFound,
			"state.get",
			fmt.Sprintf("there is no %s %.80q", t.noun, key),
			t.remedy,
		)
	}
	if err != nil {
		return Stored[T]{}, err
	}
	return t.stored(it)
}

func (t table[T]) stored(it raftstore.Item) (Stored[T], error) {
	out := Stored[T]{Key: strings.TrimPrefix(it.Key, t.prefix), Revision: uint64(it.Modified), item: it}
	var err error
	if out.Value, err = decode[T](it.Value); err != nil {
		return Stored[T]{}, fault.Wrap(
			err,
			fault.Internal,
			"state.get",
			fmt.Sprintf("the %s %.80q cannot be read by this release", t.noun, out.Key),
			"run the newest release on every auth replica",
		)
	}
	return out, nil
}

// list returns one page of the kind.
func (t table[T]) list(ctx context.Context, s *State, p Page) (Listing[T], error) {
	return t.listUnder(ctx, s, "", p)
}

// listUnder returns one page of the records whose key begins with under.
func (t table[T]) listUnder(ctx context.Context, s *State, under string, p Page) (Listing[T], error) {
	after := ""
	if p.After != "" {
		after = t.prefix + p.After
	}
	got, err := s.store.List(ctx, t.prefix+under, raftstore.Page{After: after, Limit: p.Limit})
	if err != nil {
		return Listing[T]{}, err
	}
	out := Listing[T]{Next: strings.TrimPrefix(got.Next, t.prefix), revision: got.Revision}
	for _, it := range got.Items {
		rec, err := t.stored(it)
		if err != nil {
			out.Unreadable = append(out.Unreadable, strings.TrimPrefix(it.Key, t.prefix))
			continue
		}
		out.Items = append(out.Items, rec)
	}
	return out, nil
}

// all returns every record of the kind.
func (t table[T]) all(ctx context.Context, s *State) ([]Stored[T], error) {
	var out []Stored[T]
	for p := (Page{}); ; {
		got, err := t.list(ctx, s, p)
		if err != nil {
			return nil, err
		}
		out = append(out, got.Items...)
		if got.Next == "" {
			return out, nil
		}
		p.After = got.Next
	}
}

// change is what one transaction will do. Its zero value does nothing; commit carries it out.
type change struct {
	txn      raftstore.Txn
	conflict *fault.Error // what to say when a condition fails; nil: that somebody changed it meanwhile
	err      error        // the first that kept a part from being gathered
}

// create writes a record that must not exist yet.
func (t table[T]) create(c *change, key string, v T) {
	c.require(raftstore.Missing(t.prefix + key))
	t.set(c, key, v)
}

// replace writes v over old, which must not have been changed since it was read. What old's lease would take,
// it still takes.
func (t table[T]) replace(c *change, old Stored[T], v T) {
	c.require(raftstore.Unchanged(old.item))
	t.setLeased(c, old.Key, v, old.item.Lease)
}

// set writes v, whatever was there.
func (t table[T]) set(c *change, key string, v T) { t.setLeased(c, key, v, 0) }

// setLeased writes v, to go when the lease ends.
func (t table[T]) setLeased(c *change, key string, v T, lease raftstore.LeaseID) {
	b, err := encode(v)
	c.setErr(err)
	w := raftstore.Put(t.prefix+key, b)
	w.Lease = lease
	c.txn.Then = append(c.txn.Then, w)
}

// remove deletes old, which must not have been changed since it was read.
func (t table[T]) remove(c *change, old Stored[T]) {
	c.require(raftstore.Unchanged(old.item))
	t.deleteKey(c, old.Key)
}

// getOrNew is get, but "there is none" gives an empty record (Revision 0) for replaceOrCreate.
func (t table[T]) getOrNew(ctx context.Context, s *State, key string) (Stored[T], error) {
	rec, err := t.get(ctx, s, key)
	if fault.Is(err, fault.NotFound) {
		return Stored[T]{Key: key}, nil
	}
	return rec, err
}

// replaceOrCreate writes v over old; an old that was never stored must still not be.
func (t table[T]) replaceOrCreate(c *change, old Stored[T], v T) {
	if old.Revision == 0 {
		t.create(c, old.Key, v)
		return
	}
	t.replace(c, old, v)
}

// deleteKey deletes what is under key, if anything.
func (t table[T]) deleteKey(c *change, key string) {
	c.txn.Then = append(c.txn.Then, raftstore.Delete(t.prefix+key))
}

// requireMissing makes the whole change depend on there being no such record.
func (t table[T]) requireMissing(c *change, key string) { c.require(raftstore.Missing(t.prefix + key)) }

// requireUnchanged makes the whole change depend on a record that it does not write.
func (t table[T]) requireUnchanged(c *change, old Stored[T]) {
	c.require(raftstore.Unchanged(old.item))
}

func (c *change) require(cond raftstore.Condition) { c.txn.If = append(c.txn.If, cond) }

func (c *change) setErr(err error) {
	if c.err == nil {
		c.err = err
	}
}

// appendRecord adds records to a stream.
func (c *change) appendRecord(stream string, v any) {
	b, err := json.Marshal(v)
	c.setErr(err)
	for i, a := range c.txn.Append {
		if a.Stream == stream {
			c.txn.Append[i].Records = append(a.Records, b)
			return
		}
	}
	c.txn.Append = append(c.txn.Append, raftstore.Append{Stream: stream, Records: [][]byte{b}})
}

// result is what a change became.
type result struct {
	Revision uint64
	Time     time.Time // the leader's clock in the command: the same on every replica
}

// commit carries the change out, whole or not at all. A condition that fails is fault Conflict.
func (s *State) commit(ctx context.Context, c *change) (result, error) {
	if c.err != nil {
		return result{}, c.err
	}
	r, err := s.store.Commit(ctx, c.txn)
	if fault.Is(err, fault.Conflict) {
		said := fault.New(
			fault.Conflict,
			"state.commit",
			"somebody changed this meanwhile",
			"read it again and repeat the change",
		)
		if c.conflict != nil {
			said = c.conflict
		}
		return result{}, fault.Wrap(err, said.Kind, said.Op, said.Msg, said.Remedy)
	}
	if err != nil {
		return result{}, err
	}
	return result{Revision: uint64(r.Revision), Time: r.Time}, nil
}

// retryOnConflict carries out attempt until no condition of it fails for being overtaken, at most a few
// times.
func retryOnConflict(attempt func() error) error {
	var err error
	for range 8 {
		if err = attempt(); !fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return err
}
