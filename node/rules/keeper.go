// Package rules answers: by which rules does this node decide now?
//
// Whatever carries them, nothing counts before it is verified: a set must lead back to the pin and be newer,
// in every part, than the one held. The last good set is kept on disk, so that a node decides after a restart
// even while auth is away.
package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const fileName = "rules.json"

// saveEvery is how old the head on disk may get while the documents stay the same. Heads come every 10 s;
// writing each would only wear the disk, and costs at most this much of rules.MaxAge after a restart.
const saveEvery = 10 * time.Minute

// Config says where the rules are kept and whom to believe.
type Config struct {
	Dir   string // exists, mode 0700
	Pin   identity.Pin
	First rules.Set // what came with the membership
	Log   *slog.Logger
}

// Keeper holds the rules of the moment.
type Keeper struct {
	cfg     Config
	current atomic.Pointer[rules.Trust]

	mu    sync.Mutex // one change at a time; guards saved
	saved *rules.Trust
}

// Open takes up the newest of what is on disk and what came with the membership.
func Open(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg}
	first, err := rules.Open(cfg.Pin, cfg.First)
	if err != nil {
		return nil, fmt.Errorf("rules of the membership: %w", err)
	}
	k.current.Store(first)
	switch kept, err := k.load(); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil: // altered or torn: what came with the membership is good
		cfg.Log.Warn("the rules on disk are not used", "err", err)
	case kept.Head.Time.After(first.Head.Time):
		k.saved = kept
		k.current.Store(kept)
	}
	return k, nil
}

func (k *Keeper) load() (*rules.Trust, error) {
	path := filepath.Join(k.cfg.Dir, fileName)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > rules.MaxSetBytes {
		return nil, fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	set, err := rules.Decode(b)
	if err != nil {
		return nil, err
	}
	return rules.Open(k.cfg.Pin, set)
}

// Current is the newest verified set.
func (k *Keeper) Current() *rules.Trust { return k.current.Load() }

// Offer takes a pushed set over if it verifies and is newer. Pushing the same set again is no error.
func (k *Keeper) Offer(b []byte) error {
	set, err := rules.Decode(b)
	if err != nil {
		return err
	}
	return k.update(func(held *rules.Trust) (*rules.Trust, error) { return held.Advance(set) })
}

// Renew takes a pushed head over if it verifies, is newer, and names the documents held.
func (k *Keeper) Renew(b []byte) error {
	head, err := rules.DecodeHead(b)
	if err != nil {
		return err
	}
	return k.update(func(held *rules.Trust) (*rules.Trust, error) { return held.AdvanceHead(head) })
}

func (k *Keeper) update(advance func(*rules.Trust) (*rules.Trust, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next, err := advance(k.current.Load())
	if err != nil {
		return err
	}
	k.current.Store(next)
	if !k.needsSave(next) {
		return nil
	}
	if err := k.save(next); err != nil { // the rules are good all the same; only a restart would lose them
		k.cfg.Log.Warn("the rules could not be kept on disk", "err", err)
		return nil
	}
	k.saved = next
	return nil
}

func (k *Keeper) needsSave(next *rules.Trust) bool {
	if k.saved == nil || next.Head.Time.Sub(k.saved.Head.Time) >= saveEvery ||
		len(next.Head.Docs) != len(k.saved.Head.Docs) {
		return true
	}
	for kind, ref := range next.Head.Docs {
		if k.saved.Head.Docs[kind].Revision != ref.Revision {
			return true
		}
	}
	return false
}

func (k *Keeper) save(t *rules.Trust) error {
	set := t.Set()
	b, err := set.Encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(k.cfg.Dir, fileName), b)
}
