// Package rules answers: by which rules does this node decide now?
//
// Rules count only once they are verified, whatever brought them: a set must lead back to the pin and be
// newer, in every part, than the one in force. The last good set is kept on disk, so that a node can decide
// after a restart while the auth service is unavailable.
package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/rulesfile"
)

// fileName is the file in Config.Dir that holds the rules.
const fileName = "rules.json"

// Config says where the rules are kept and who must have signed them.
type Config struct {
	Dir   string       // exists, mode 0700
	Pin   identity.Pin // of the cluster
	First rules.Set    // the rules that came with the membership
	Log   *slog.Logger
}

// Keeper holds the rules in force. Its methods may be called by several goroutines at once.
type Keeper struct {
	current atomic.Pointer[rules.Trust] // never nil; written with mu held

	mu   sync.Mutex // held while rules are verified and saved; guards file
	file *rulesfile.File
}

// Open loads the rules on disk, or those of the membership if these are newer. Rules on disk that do not
// verify are logged and not used. The error is that the rules of the membership do not verify.
func Open(cfg Config) (*Keeper, error) {
	first, err := rules.Open(cfg.Pin, cfg.First)
	if err != nil {
		return nil, fmt.Errorf("rules of the membership: %w", err)
	}
	k := &Keeper{file: rulesfile.New(filepath.Join(cfg.Dir, fileName), cfg.Log)}
	k.current.Store(first)
	switch saved, err := k.file.Load(cfg.Pin); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		cfg.Log.Warn("the rules on disk are not used", "err", err)
	case saved.Head.Time.After(first.Head.Time):
		k.current.Store(saved)
	}
	return k, nil
}

// Current returns the newest verified rules. It is never nil.
func (k *Keeper) Current() *rules.Trust { return k.current.Load() }

// Offer puts a pushed set in force if it verifies and is newer. The set that is in force already is no error.
func (k *Keeper) Offer(b []byte) error {
	set, err := rules.Decode(b)
	if err != nil {
		return err
	}
	return k.update(func(t *rules.Trust) (*rules.Trust, error) { return t.Advance(set) })
}

// OfferHead puts a pushed head in force if it verifies, is newer, and names the documents that are in force.
func (k *Keeper) OfferHead(b []byte) error {
	head, err := rules.DecodeHead(b)
	if err != nil {
		return err
	}
	return k.update(func(t *rules.Trust) (*rules.Trust, error) { return t.AdvanceHead(head) })
}

// update puts what advance makes of the rules in force in their place. Rules that cannot be saved are used
// all the same: only a restart would lose them.
func (k *Keeper) update(advance func(*rules.Trust) (*rules.Trust, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next, err := advance(k.current.Load())
	if err != nil {
		return err
	}
	k.current.Store(next)
	k.file.Save(next)
	return nil
}
