// Package rules answers: by which rules does this node decide now?
//
// Rules come from proxies, which are not trusted. They are put in force only if they verify: the signatures
// of a set must lead back to the cluster's pin, and none of its parts may be older than the piece in force.
// The last rules that verified are kept on disk, so that a node can decide after a restart while the auth
// service is unavailable.
package rules

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/rulesfile"
)

// fileName is the file in Config.Dir that holds the rules.
const fileName = "rules.json"

// Config says where the rules are kept and who must have signed them.
type Config struct {
	Dir   string           // the directory of the file; it must exist, with mode 0700
	Pin   identity.Pin     // of the cluster, whose authorities must have signed the rules
	First rules.Set        // the rules that came with the membership
	Now   func() time.Time // the clock
	Log   *slog.Logger
}

// Keeper holds the rules in force. Its methods may be called by several goroutines at once.
type Keeper struct {
	now      func() time.Time
	receiver *rules.Receiver

	file *rulesfile.File // belongs to Open, and then to Run
}

// Open returns the keeper with the rules on disk, or with those of the membership if these are newer or
// nothing usable is on disk. Rules on disk that do not verify are logged and not used. The error is that
// there are no rules which verify.
func Open(cfg Config) (*Keeper, error) {
	file := rulesfile.New(filepath.Join(cfg.Dir, fileName), cfg.Log)
	trust, err := file.Newest(cfg.Pin, cfg.First)
	if err != nil {
		return nil, fmt.Errorf("rules of the membership: %w", err)
	}
	return &Keeper{now: cfg.Now, receiver: rules.NewReceiver(trust, cfg.Now()), file: file}, nil
}

// Current returns the newest verified rules. It is never nil.
func (k *Keeper) Current() *rules.Trust { return k.receiver.Current() }

// Changed returns a channel that is closed when the next change of a document gets in force. Take it before
// Current, so that no change is missed.
func (k *Keeper) Changed() <-chan struct{} { return k.receiver.Changed() }

// Run saves the rules in force on disk whenever they have changed, until ctx ends. It returns nil. Rules that
// cannot be saved are logged and used all the same: they would be lost only by a restart.
func (k *Keeper) Run(ctx context.Context) error { return k.file.Run(ctx, k.receiver) }

// Offer takes pushed pieces of the rules, and the head after them, and puts in force what verifies and is
// newer. lacking names the pieces that the head needs and that have not come. The error says which pieces are
// not used, and why.
func (k *Keeper) Offer(pieces ...[]byte) (lacking []string, err error) {
	received, err := k.receiver.Offer(k.now(), pieces...)
	for _, kind := range received.Lacking {
		lacking = append(lacking, string(kind))
	}
	return lacking, err
}
