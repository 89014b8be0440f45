// Package rules answers: by which rules does this node decide now?
//
// Rules come from proxies, which are not trusted. They are put in force only if they verify: the signatures
// of a set must lead back to the cluster's pin, and none of its parts may be older than the part in force.
// The last rules that verified are kept on disk, so that a node can decide after a restart while the auth
// service is unavailable.
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
	Dir   string       // the directory of the file; it must exist, with mode 0700
	Pin   identity.Pin // of the cluster, whose authorities must have signed the rules
	First rules.Set    // the rules that came with the membership
	Log   *slog.Logger
}

// Keeper holds the rules in force. Its methods may be called by several goroutines at once.
type Keeper struct {
	current atomic.Pointer[rules.Trust] // never nil; written with mu held

	mu   sync.Mutex // held from the verification of rules until they are in force and saved; guards file
	file *rulesfile.File
}

// Open returns the keeper with the rules on disk, or with those of the membership if these are newer or
// nothing usable is on disk. Rules on disk that do not verify are logged and not used. The error is that the
// rules of the membership do not verify.
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

// Offer puts a pushed set, in the encoding of rules.Set, in force if it verifies and is newer than the set in
// force. The error says why it is not used, and is nil for the set that is in force already.
func (k *Keeper) Offer(b []byte) error {
	set, err := rules.Decode(b)
	if err != nil {
		return err
	}
	return k.update(func(inForce *rules.Trust) (*rules.Trust, error) { return inForce.Advance(set) })
}

// OfferHead puts a pushed head, in the encoding of rules.DecodeHead, in force with the documents that are in
// force. It does so if the head verifies, is newer than the head in force, and lists the revisions of just
// those documents. The error says why it is not used.
func (k *Keeper) OfferHead(b []byte) error {
	head, err := rules.DecodeHead(b)
	if err != nil {
		return err
	}
	return k.update(func(inForce *rules.Trust) (*rules.Trust, error) { return inForce.AdvanceHead(head) })
}

// update calls advance with the rules in force, and puts the rules that it returns in force. If advance
// returns an error, the rules in force stay and update returns the error. Rules that cannot be saved are used
// all the same: they would be lost only by a restart.
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
