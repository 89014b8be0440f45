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
	maxPageBytes = 16 << 20 // values in one page, unless its first item alone is more
)

// Page asks for part of a listing: the keys after After, at most Limit (0: 1000; never over 10000).
type Page struct {
	After string
	Limit int
}

// Listing is one page, all of it as of one revision. Next is the After of the next page, "" at the end. A
// page may be shorter than its limit when its items are large.
type Listing struct {
	Items    []Item
	Next     string
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
	it, there := s.fsm.state.Load().items.Get([]byte(key))
	if !there {
		return Item{}, fault.New(
			fault.NotFound,
			"raftstore.Get",
			"there is no "+quote(key),
			"list what there is",
		)
	}
	return it.clone(), nil
}

// List returns the items whose keys begin with prefix, in the order of the keys' bytes.
func (s *Store) List(ctx context.Context, prefix string, p Page) (Listing, error) {
	if err := s.checkReadable(ctx); err != nil {
		return Listing{}, err
	}
	now := s.fsm.state.Load()
	out := Listing{Revision: now.revision}
	from := prefix
	if p.After >= prefix {
		from = p.After + "\x00"
	}
	it := now.items.Root().Iterator()
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

// Read returns up to limit records of a stream from number from on (0 and 1 are the first); limit is bounded
// as a page's. None, without a fault, means that there are no more yet.
func (s *Store) Read(ctx context.Context, name string, from uint64, limit int) ([]Record, error) {
	if err := s.checkReadable(ctx); err != nil {
		return nil, err
	}
	st, known := s.fsm.state.Load().streams.Get([]byte(name))
	if !known {
		return nil, nil
	}
	return s.fsm.files.read(name, st, from, pageLimit(limit))
}

// Empty reports whether no key was ever written, as far as this replica knows: ask after Ready.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	if err := s.checkReadable(ctx); err != nil {
		return false, err
	}
	return s.fsm.state.Load().firstWrite == 0, nil
}

func (s *Store) checkReadable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.checkOpen()
}

// Ready waits until writes are accepted. A store that stops before is a fault.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.wait(ctx, s.open); err != nil {
		return err
	}
	r := s.raft.Load()
	for {
		grown := s.fsm.ring.changed()
		if r.State() == raft.Leader && s.fsm.state.Load().term == r.CurrentTerm() {
			return s.latch.err()
		}
		if err := s.wait(ctx, grown); err != nil {
			return err
		}
	}
}

// Linearize returns when reads of this replica show every write acknowledged before the call, by whichever
// leader. It fails when this replica can not show that a quorum still takes it for the leader.
//
// Why that is enough: each leader begins its term with a command (lead). Having applied a command of the term
// it just verified, the machine holds everything committed in terms before; and what this leader
// acknowledged, its own machine had applied first.
func (s *Store) Linearize(ctx context.Context) error {
	if err := s.checkReadable(ctx); err != nil {
		return err
	}
	r := s.raft.Load()
	if err := s.verify(ctx, r); err != nil {
		return err
	}
	for term := r.CurrentTerm(); ; {
		grown := s.fsm.ring.changed()
		if s.fsm.state.Load().term >= term {
			return s.latch.err()
		}
		if err := s.wait(ctx, grown); err != nil {
			return err
		}
	}
}

// verify asks a quorum whether this replica still leads. It is answered within a heartbeat or two.
func (s *Store) verify(ctx context.Context, r *raft.Raft) error {
	verdict := make(chan error, 1)
	go func() { verdict <- s.waitFuture(r.VerifyLeader()) }() // ends with raft at the latest
	select {
	case err := <-verdict:
		if err != nil {
			return s.applyFault(err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
