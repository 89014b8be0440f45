package transfer

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/tsh/terminal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A progress line shows percentage, size, speed and time left, as far as they are known, within the width.
func TestProgressLines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name              string
		transferred, size int64
		elapsed           time.Duration
		want              []string
	}{
		{"f", 0, 1000, 0, []string{"f ", "0%", "0 B"}},
		{"f", 450_000, 1_000_000, time.Second, []string{"45%", "450.0 kB", "450.0 kB/s", "0:01 left"}},
		{"f", 1_000_000, 1_000_000, 2 * time.Second, []string{"100%", "1.0 MB", "500.0 kB/s"}},
		{"f", 2_000_000, 1_000_000, time.Second, []string{"100%"}},
		{"f", 5_000_000_000, 0, time.Second, []string{"5.0 GB"}},
		{strings.Repeat("long", 50), 1, 2, time.Hour, []string{"…", "50%", "1:00:00 left"}},
	} {
		got := progressLine(tt.name, tt.transferred, tt.size, tt.elapsed, 79)
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("got %q, want %q in it", got, want)
			}
		}
		if n := len([]rune(got)); n > 79 {
			t.Errorf("got %d columns: %q", n, got)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a", "..", "a/b", "\x1b", "é", "", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		unsafe := strings.ContainsAny(name, "/\\\x00\n\x1b") || terminal.Clean(name) != name
		if name == "" || name == ".." || unsafe {
			t.Errorf("accepts %q", name)
		}
	})
}
