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

// Get returns the item as this replica knows it, or fault NotFound.
func (s *Store) Get(ctx context.Context, key string) (Item, error) {
	if err := s.checkReadable(ctx); err != nil {
		return Item{}, err
	}
	it, found := s.fsm.state.Load().items.Get([]byte(key))
	if !found {
		const remedy = "list the keys that exist"
		return Item{}, fault.New(fault.NotFound, "raftstore.Get", "there is no "+quote(key), remedy)
	}
	return it.clone(), nil
}

// List returns the items whose keys begin with prefix, in the order of the keys' bytes.
func (s *Store) List(ctx context.Context, prefix string, p Page) (Listing, error) {
	if err := s.checkReadable(ctx); err != nil {
		return Listing{}, err
	}
	state := s.fsm.state.Load()
	out := Listing{Revision: state.revision}
	from := prefix
	if p.After >= prefix {
		from = p.After + "\x00"
	}
	it := state.items.Root().Iterator()
	it.SeekLowerBound([]byte(from))
	size := 0
	for _, item, ok := it.Next(); ok && strings.HasPrefix(item.Key, prefix); _, item, ok = it.Next() {
		if len(out.Items) == pageLimit(p.Limit) || size > maxPageBytes {
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

// Ready waits until writes are accepted. It returns a fault when the store stops before.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.wait(ctx, s.open); err != nil {
		return err
	}
	r := s.raft.Load()
	for {
		changed := s.fsm.ring.changed()
		if r.State() == raft.Leader && s.fsm.state.Load().term == r.CurrentTerm() {
			return s.latch.Err()
		}
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// Linearize returns when reads of this replica show every write acknowledged before the call, by whichever
// leader. It fails when this replica cannot show that a quorum still takes it for the leader.
//
// Why that is enough: each leader begins its term with a command (watchLeadership). Having applied a command
// of the term it just verified, the state machine holds everything committed in terms before; and what this
// leader acknowledged, its own state machine had applied first.
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

// verifyLeader asks a quorum whether this replica still leads. The answer takes a heartbeat or two.
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
