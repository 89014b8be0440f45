package rules

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// load reads and verifies the set on disk.
func load(path string, pin identity.Pin) (*rules.Trust, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, rules.MaxSetBytes+1))
	if err != nil {
		return nil, err
	}
	s, err := rules.Decode(b)
	if err != nil {
		return nil, err
	}
	return rules.Open(pin, s)
}

// save writes the set where the next start finds it: when a document changed, and else now and then for the
// head's age. A disk that does not take it costs only that.
func (c *Carrier) save(t *rules.Trust) {
	if t.Head.Time.Sub(c.saved.Time) < saveEvery && maps.EqualFunc(c.saved.Docs, t.Head.Docs, sameRef) {
		return
	}
	if err := write(c.cfg.Path, t); err != nil {
		c.cfg.Log.Warn("the rules could not be kept on disk", "path", c.cfg.Path, "err", err)
		return
	}
	c.saved = t.Head
}

func sameRef(a, b rules.Ref) bool { return a.Revision == b.Revision && bytes.Equal(a.Digest, b.Digest) }

func write(path string, t *rules.Trust) error {
	b, err := t.Set().Encode()
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	return durable.WriteFile(path, b)
}
