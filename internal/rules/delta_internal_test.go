package rules

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// applied applies the splices that diff makes, and checks the result.
func applied(t *testing.T, prev, next []byte) (splices []byte) {
	t.Helper()
	splices = diff(prev, next)
	got, err := Delta{Splices: splices}.apply(nil, prev)
	if err != nil || !bytes.Equal(got, next) {
		t.Fatalf("got %.80q and %v, want %.80q", got, err, next)
	}
	return splices
}

// randomText is text with repetitions, as documents have.
func randomText(r *rand.Rand, n int) []byte {
	words := []string{
		`{"name":"`, `","allow":[{"nodes":{"env":["prod"]},"logins":["root"],`, `"actions":["shell"]}]},`,
	}
	var b []byte
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
		b = append(b, byte('a'+r.IntN(26)), byte('a'+r.IntN(26)))
	}
	return b
}

func TestADeltaMakesTheNextVersion(t *testing.T) {
	t.Parallel()
	applied(t, nil, nil)
	applied(t, nil, []byte("new"))
	applied(t, []byte("old"), nil)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		prev := randomText(r, r.IntN(5000))
		next := bytes.Clone(prev)
		for range r.IntN(5) { // replace a run by another text
			at := r.IntN(len(next) + 1)
			end := min(len(next), at+r.IntN(200))
			next = bytes.Join([][]byte{next[:at], randomText(r, r.IntN(100)), next[end:]}, nil)
		}
		applied(t, prev, next)
	}
}

// Several small changes of a large document make a small delta, also where text moves.
func TestADeltaIsSmall(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	prev := randomText(r, 100_000)
	next := bytes.Join([][]byte{[]byte("header 2"), prev[8:20_000], []byte("one more"), prev[20_000:60_000],
		prev[60_100:]}, nil)
	if splices := applied(t, prev, next); len(splices) > 500 {
		t.Errorf("got %d bytes for three changes, want few", len(splices))
	}
	moved := bytes.Join([][]byte{prev[50_000:], prev[:50_000]}, nil)
	if splices := applied(t, prev, moved); len(splices) > 1000 {
		t.Errorf("got %d bytes for a half that moved, want few", len(splices))
	}
}

// No splices make apply panic, read outside of the base, or make more than a document.
func FuzzApplyDelta(f *testing.F) {
	prev := randomText(rand.New(rand.NewPCG(3, 4)), 1000)
	f.Add(diff(prev, prev[:500]))
	f.Add(diff(prev, append(bytes.Clone(prev), "new"...)))
	f.Add([]byte{0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0})
	f.Fuzz(func(t *testing.T, splices []byte) {
		if got, err := (Delta{Splices: splices}).apply(nil, prev); err == nil && len(got) > MaxDocumentBytes {
			t.Errorf("got a document of %d bytes", len(got))
		}
	})
}
