// Package rulesfile answers: which rules does a node or a proxy use after a restart?
//
// It keeps the last verified rules in a file. What it reads counts only after it has been verified from the
// pin again.
package rulesfile

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"time"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// saveEvery is how much newer the current head may be than the one on disk before it is saved, if the
// documents are the same. A new head comes every 10 s, and writing each would wear the disk. After a restart
// the head may be older by saveEvery than it had to be, which is a small part of rules.MaxAge.
const saveEvery = 10 * time.Minute

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

// Save writes the rules to the file if a document has changed, or if their head is newer than the saved one
// by saveEvery; otherwise it does nothing. An error is logged and not returned: the program goes on with the
// rules in memory, and lacks them only after a restart.
func (f *File) Save(trust *rules.Trust) {
	sameDocuments := maps.EqualFunc(f.saved.Docs, trust.Head.Docs, sameRef)
	if sameDocuments && trust.Head.Time.Sub(f.saved.Time) < saveEvery {
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

// sameRef reports whether both refer to the same document. The type has a slice, so == does not compile.
func sameRef(a, b rules.Ref) bool { return a.Revision == b.Revision && bytes.Equal(a.Digest, b.Digest) }
