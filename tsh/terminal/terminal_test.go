package terminal_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/tsh/terminal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCleanKeepsReadableText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é 한국":         "plain é 한국",
		"a\x1b[31mb\x1b[0m":  "a[31mb[0m",
		"a\nb\tc\rd":         "a b c d",
		"a\u202eb\u200bc":    "abc",
		"a\x9bb\u009bc":      "abc",
		"\x1b]52;c;AAAA\x07": "]52;c;AAAA",
		"":                   "",
	} {
		if got := terminal.Clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := terminal.CleanLines("a\x1b\r\nb\r\n\r\n"); got != "a\nb" {
		t.Errorf("got %q, want two clean lines", got)
	}
}

// Escape sequences are recognised only at the start of a line, however the input is split into reads.
func TestEscapeSequences(t *testing.T) {
	t.Parallel()
	readers := map[string]func(io.Reader) io.Reader{
		"whole":             func(r io.Reader) io.Reader { return r },
		"byte by byte":      iotest.OneByteReader,
		"data with its EOF": iotest.DataErrReader,
	}
	for _, tt := range []struct {
		in, out      string
		disconnected bool
	}{
		{"ls\r", "ls\r", false}, {"~.", "", true}, {"ls\r~.more", "ls\r", true}, {"a~.", "a~.", false},
		{"~~.", "~.", false}, {"~x", "~x", false}, {"\n~~\n", "\n~\n", false}, {"~?~.", "", true},
		{"\r~\r~.", "\r~\r", true}, {"~", "", false},
	} {
		for name, reader := range readers {
			disconnected, help := false, bytes.Buffer{}
			in := reader(strings.NewReader(tt.in))
			got, err := io.ReadAll(terminal.NewEscapes(in, &help, '~', func() { disconnected = true }))
			if err != nil || string(got) != tt.out || disconnected != tt.disconnected {
				t.Errorf("%q %s: got %q, disconnected %v (%v), want %q, disconnected %v",
					tt.in, name, got, disconnected, err, tt.out, tt.disconnected)
			}
			if strings.Contains(tt.in, "~?") != (help.Len() > 0) {
				t.Errorf("%q: got help %q", tt.in, help.String())
			}
		}
	}
}
