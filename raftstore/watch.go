package raftstore

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
)

// Event is one change of a key. When Deleted, Item is the zero value.
type Event struct {
	Revision Revision
	Key      string
	Item     Item
	Deleted  bool
}

// eventOverhead is the approximate size in bytes of an event besides its key and value.
const eventOverhead = 160

// ring keeps the last events for all watches. A watch only has the revision up to which it has read, and
// keeps no events. A watch that reads too slowly, so that events it needs were dropped, gets fault Expired.
type ring struct {
	limit int // bytes kept; the last revision is kept whatever its size

	mu     sync.Mutex // guards the fields below; no other lock is taken while it is held
	since  Revision   // every event after this revision is kept
	kept   []revisionEvents
	size   int           // bytes of kept
	notify chan struct{} // closed and replaced whenever the state changes
}

// revisionEvents are the events of one revision; they are never split.
type revisionEvents struct {
	revision Revision
	events   []Event
	size     int
}

func newRing(limit int) *ring { return &ring{limit: limit, notify: make(chan struct{})} }

// add appends the events of one revision, drops the oldest ones if the ring is over its limit, and wakes
// everyone who waits for the state to change. A revision may have no events: it still wakes them.
func (r *ring) add(at Revision, events []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(events) > 0 {
		size := 0
		for _, e := range events {
			size += eventOverhead + len(e.Key) + len(e.Item.Value)
		}
		r.kept = append(r.kept, revisionEvents{at, events, size})
		r.size += size
	}
	drop := 0
	for r.size > r.limit && drop < len(r.kept)-1 { // the last revision stays, whatever its size
		r.size -= r.kept[drop].size
		r.since = r.kept[drop].revision
		drop++
	}
	r.kept = slices.Delete(r.kept, 0, drop)
	r.notifyAll()
}

// reset drops all events: the state was replaced by one of revision at.
func (r *ring) reset(at Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.size, r.since = nil, 0, at
	r.notifyAll()
}

// notifyAll wakes everyone who waits. The caller holds mu.
func (r *ring) notifyAll() {
	close(r.notify)
	r.notify = make(chan struct{})
}

// changed returns a channel that is closed when the state changes after the call.
func (r *ring) changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.notify
}

// after returns what comes next for a watch of the prefix that has read up to revision from. events are the
// events with the prefix of the first later revision that has any; there are none if no revision has yet. The
// watch has then read up to revision upTo. changed is closed when the state changes the next time. If events
// after from were dropped, after returns fault Expired.
func (r *ring) after(
	from Revision,
	prefix string,
) (events []Event, upTo Revision, changed <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from < r.since {
		return nil, from, nil, watchExpired.New("raftstore.Watch")
	}
	// i is the first kept revision after from. The comparison never says "equal": the search then ends at the
	// first revision for which it says 1.
	i, _ := slices.BinarySearchFunc(r.kept, from+1, func(kept revisionEvents, at Revision) int {
		if kept.revision < at {
			return -1
		}
		return 1
	})
	upTo = from
	for ; i < len(r.kept) && len(events) == 0; i++ {
		upTo = r.kept[i].revision
		for _, e := range r.kept[i].events {
			if strings.HasPrefix(e.Key, prefix) {
				e.Item.Value = bytes.Clone(e.Item.Value)
				events = append(events, e)
			}
		}
	}
	return events, upTo, r.notify, nil
}

// Watch is a position in the store's events. It needs no closing. One goroutine at a time may use it.
type Watch struct {
	store  *Store
	prefix string
	from   Revision // every event up to this revision was delivered
}

// Watch delivers every change of keys with the prefix after revision from, which is the Revision of a Listing
// or Result. When changes after it are no longer kept, Watch or Next returns fault Expired: list again.
func (s *Store) Watch(ctx context.Context, prefix string, from Revision) (*Watch, error) {
	if err := s.checkOpen(); err != nil {
		return nil, err
	}
	if _, _, _, err := s.fsm.ring.after(from, prefix); err != nil {
		return nil, err
	}
	return &Watch{store: s, prefix: prefix, from: from}, ctx.Err()
}

// Next waits for the next revision that changed a key with the prefix, and returns all its events. Another
// Watch can go on from their Revision. When the store has stopped, Next returns fault Unavailable.
func (w *Watch) Next(ctx context.Context) ([]Event, error) {
	for {
		events, upTo, changed, err := w.store.fsm.ring.after(w.from, w.prefix)
		if err != nil {
			return nil, err
		}
		w.from = upTo
		if len(events) > 0 {
			return events, nil
		}
		if err := w.store.wait(ctx, changed); err != nil {
			return nil, err
		}
	}
}
