// Package rulesfile answers: which rules does a node or a proxy use after a restart?
//
// It keeps the last verified rules in a file. What it reads counts only after it has been verified from the
// pin again.
package rulesfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// saveEvery is how much newer the current head may be than the one on disk before it is saved, if the
// documents are the same. A new head comes every 10 s, and writing each would wear the disk. After a restart
// the head may be older by saveEvery than it had to be, which is a small part of the setting rules_age.
const saveEvery = 10 * time.Minute

// saveDelay is how long a change waits before it is saved, together with those that come meanwhile. Each lock
// is a change that reaches every machine, and each save writes all rules and waits for the disk. Whoever
// makes the machine crash within that time, and then keeps newer rules from it, makes it use those of before.
const saveDelay = time.Second

// headInterval is how often Run looks whether the head is worth a save although no document has changed.
const headInterval = time.Minute

// File is the rules on disk. It belongs to one goroutine at a time.
type File struct {
	path  string // its folder exists
	log   *slog.Logger
	saved rules.Head // what the file holds; the zero Head when it holds nothing usable
}

// New names the file; it reads and writes nothing yet.
func New(path string, log *slog.Logger) *File { return &File{path: path, log: log} }

// Load reads the rules from the file and verifies them under the pin, as rules of unknown origin. It does not
// check how old they are. The error is fs.ErrNotExist if there is no file yet.
func (f *File) Load(pin identity.Pin) (*rules.Trust, error) {
	b, err := f.read()
	if err != nil {
		return nil, err
	}
	set, err := rules.Decode(b)
	if err != nil {
		return nil, err
	}
	trust, err := rules.Open(pin, set)
	if err != nil {
		return nil, err
	}
	f.saved = trust.Head
	return trust, nil
}

// Newest returns the newer of the rules in the file and first, after it has verified both under the pin; or
// the valid ones if the others are not valid. A file that is there and not valid is logged. The error says
// that neither are valid.
func (f *File) Newest(pin identity.Pin, first rules.Set) (*rules.Trust, error) {
	saved, errSaved := f.Load(pin)
	if errSaved != nil && !errors.Is(errSaved, fs.ErrNotExist) {
		f.log.Warn("the rules on disk are not used", "path", f.path, "err", errSaved)
	}
	given, errGiven := rules.Open(pin, first)
	switch {
	case errSaved != nil && errGiven != nil:
		return nil, errors.Join(errSaved, errGiven)
	case errSaved != nil:
		return given, nil
	case errGiven != nil:
		return saved, nil
	}
	// Advance refuses rules that are older than those on disk. Rules that were withdrawn never come back.
	if later, err := saved.Advance(first); err == nil {
		return later, nil
	}
	return saved, nil
}

// read returns the content of the file. It refuses a file of more than rules.MaxSetBytes.
func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, rules.MaxSetBytes+1))
	if err == nil && len(b) > rules.MaxSetBytes {
		err = fmt.Errorf("%s is larger than %d bytes", f.path, rules.MaxSetBytes)
	}
	return b, err
}

// Rules are the rules in force. rules.Receiver implements it.
type Rules interface {
	Current() *rules.Trust
	// Changed returns a channel that is closed when other documents get in force.
	Changed() <-chan struct{}
}

// Run saves the rules in force when they have changed, at most once in saveDelay, until ctx ends, and then
// once more. It returns nil. Errors are logged.
func (f *File) Run(ctx context.Context, inForce Rules) error {
	ticker := time.NewTicker(headInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		changed := inForce.Changed() // before the rules are read, so that no change is missed
		f.Save(inForce.Current())
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-changed:
			backoff.Sleep(ctx, saveDelay)
		}
	}
	f.Save(inForce.Current())
	return nil
}

// Save writes the rules to the file if a document has changed, or if their head is newer than the saved one
// by saveEvery, or older by it, after the clock of auth was set back; otherwise it does nothing. An error is
// logged and not returned: the program goes on with the rules in memory, and lacks them only after a restart.
func (f *File) Save(trust *rules.Trust) {
	sameDocuments := f.saved.V != 0 && rules.SameDocuments(f.saved, trust.Head)
	if sameDocuments && trust.Head.Time.Sub(f.saved.Time).Abs() < saveEvery {
		return
	}
	if err := f.write(trust); err != nil {
		f.log.Warn("the rules could not be saved", "path", f.path, "err", err)
		return
	}
	f.saved = trust.Head
}

func (f *File) write(trust *rules.Trust) error {
	b, err := trust.Set().Encode()
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	return durable.WriteFile(f.path, b)
}
