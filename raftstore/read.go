package raftstore

import (
	"bytes"
	"context"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

// Bounds of one page or one Read.
const (
	defaultPage  = 1000
	maxPage      = 10000
	maxPageBytes = 16 << 20 // values in one page, unless its first item alone is larger
)

// Page asks for part of a listing.
type Page struct {
	After string // the page begins behind this key; "" means at the start
	Limit int    // items in the page; zero means 1000, more than 10000 means 10000
}

// Listing is one page of keys, all as of one revision. A page may have fewer items than its limit when they
// are large.
type Listing struct {
	Items    []Item
	Next     string // the After of the next page; "" at the end
	Revision Revision
}

func pageLimit(n int) int {
	if n <= 0 {
		return defaultPage
	}
	return min(n, maxPage)
}

func (it *Item) clone() Item {
	out := *it
	out.Value = bytes.Clone(it.Value)
	return out
}

// Get returns a copy of the item as this replica knows it, or fault NotFound. It does not ask the leader:
// call Linearize before, where an old item would do harm.
func (s *Store) Get(ctx context.Context, key string) (Item, error) {
	if err := s.checkReadable(ctx); err != nil {
		return Item{}, err
	}
	it, found := s.fsm.state.Load().items.Get([]byte(key))
	if !found {
		return Item{}, keyUnknown.New("raftstore.Get", fault.Args{"key": key})
	}
	return it.clone(), nil
}

// List returns one page of the items whose keys begin with prefix, in the order of the keys' bytes, as this
// replica knows them. All items of a page are as of one revision; pages may be of different ones. A page ends
// early when its values reach maxPageBytes.
func (s *Store) List(ctx context.Context, prefix string, page Page) (Listing, error) {
	if err := s.checkReadable(ctx); err != nil {
		return Listing{}, err
	}
	state := s.fsm.state.Load()
	out := Listing{Revision: state.revision}
	first := prefix
	if page.After >= prefix {
		first = page.After + "\x00" // the smallest key behind After
	}
	it := state.items.Root().Iterator()
	it.SeekLowerBound([]byte(first))
	size := 0
	for _, item, ok := it.Next(); ok && strings.HasPrefix(item.Key, prefix); _, item, ok = it.Next() {
		if len(out.Items) == pageLimit(page.Limit) || size > maxPageBytes {
			out.Next = out.Items[len(out.Items)-1].Key
			break
		}
		out.Items = append(out.Items, item.clone())
		size += len(item.Value)
	}
	return out, nil
}

// Read returns up to limit records of a stream, from number from on (0 and 1 are the first). limit is bounded
// as the Limit of a Page. An empty result without an error means that there are no more records yet.
func (s *Store) Read(ctx context.Context, name string, from uint64, limit int) ([]Record, error) {
	if err := s.checkReadable(ctx); err != nil {
		return nil, err
	}
	st, found := s.fsm.state.Load().streams.Get([]byte(name))
	if !found {
		return nil, nil
	}
	return s.fsm.files.read(name, st, from, pageLimit(limit))
}

// Empty reports whether no key was ever written, as far as this replica knows. Call it after Ready.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	if err := s.checkReadable(ctx); err != nil {
		return false, err
	}
	return s.fsm.state.Load().firstWrite == 0, nil
}

// checkReadable returns an error when ctx has ended or the store is not open yet.
func (s *Store) checkReadable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.checkOpen()
}

// Ready waits until this replica leads and has applied the first command of its term: then it accepts writes.
// It returns nil then, the latched fault if this replica has failed, and an error when ctx or the store ends
// before.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.wait(ctx, s.open); err != nil {
		return err
	}
	r := s.raft.Load()
	for {
		changed := s.fsm.ring.changed() // taken before the state is looked at, so that no change is missed
		if r.State() == raft.Leader && s.fsm.state.Load().term == r.CurrentTerm() {
			return s.latch.Err()
		}
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// Linearize returns nil when every later read of this replica shows all writes that any leader acknowledged
// before the call. It returns fault Unavailable when no quorum confirms that this replica leads.
//
// Why that is enough: each leader writes a command at the beginning of its term (watchLeadership). When this
// replica has applied a command of the term that the quorum confirmed, its state has everything that was
// committed in earlier terms. What it acknowledged in this term itself, it had applied before.
func (s *Store) Linearize(ctx context.Context) error {
	if err := s.checkReadable(ctx); err != nil {
		return err
	}
	r := s.raft.Load()
	if err := s.verifyLeader(ctx, r); err != nil {
		return err
	}
	for term := r.CurrentTerm(); ; {
		changed := s.fsm.ring.changed()
		if s.fsm.state.Load().term >= term {
			return s.latch.Err()
		}
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// verifyLeader returns nil when a quorum confirms that this replica still leads, and fault Unavailable when
// not. The answer takes one or two heartbeats.
func (s *Store) verifyLeader(ctx context.Context, r *raft.Raft) error {
	answer := make(chan error, 1)
	go func() { answer <- s.waitFuture(r.VerifyLeader()) }() // ends when raft stops, at the latest
	select {
	case err := <-answer:
		if err != nil {
			return s.applyFault(err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
