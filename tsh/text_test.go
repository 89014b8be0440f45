package tsh

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

func TestCleanKeepsReadableText(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 한국": "plain é 한국", "a\x1b[31mb\x1b[0m": "a[31mb[0m", "a\nb\tc\rd": "a b c d", "a\u202eb\u200bc": "abc",
		"a\x9bb\u009bc": "abc", "\x1b]52;c;AAAA\x07": "]52;c;AAAA", "": "",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := cleanLines("a\x1b\r\nb\r\n\r\n"); got != "a\nb" {
		t.Errorf("got %q, want two clean lines", got)
	}
}

func TestEveryErrorEndsInAHint(t *testing.T) {
	for _, err := range []error{io.EOF, fault.New(fault.Internal, "", "x", ""), fmt.Errorf("wrapped: %w", fault.New(fault.Denied, "", "no\x1b", "ask")),
		config.Faults{{File: "f", Line: 1, Msg: "bad"}}, fmt.Errorf("unknown command \"x\" for \"tsh\"\n\nDid you mean this?\n\tls\n")} {
		msg, hint := explain(err)
		if msg == "" || hint == "" || strings.Contains(msg+hint, "\x1b") {
			t.Errorf("%v: got %q, %q", err, msg, hint)
		}
	}
	if msg, _ := explain(&fault.Error{Kind: fault.Internal, Msg: "internal error", ID: "abc"}); !strings.Contains(
		msg,
		"abc",
	) {
		t.Errorf("got %q, want the error's id", msg)
	}
}

func TestEscapeSequences(t *testing.T) {
	for _, tt := range []struct {
		in, out string
		left    bool
	}{
		{"ls\r", "ls\r", false}, {"~.", "", true}, {"ls\r~.more", "ls\r", true}, {"a~.", "a~.", false}, {"~~.", "~.", false},
		{"~x", "~x", false}, {"\n~~\n", "\n~\n", false}, {"~?~.", "", true}, {"\r~\r~.", "\r~\r", true}, {"~", "", false},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with its end": iotest.DataErrReader} {
			left, help := false, bytes.Buffer{}
			got, err := io.ReadAll(
				newEscapes(wrap(strings.NewReader(tt.in)), &help, '~', func() { left = true }),
			)
			if err != nil || string(got) != tt.out || left != tt.left {
				t.Errorf(
					"%q %s: got %q left %v (%v), want %q left %v",
					tt.in,
					name,
					got,
					left,
					err,
					tt.out,
					tt.left,
				)
			}
			if strings.Contains(tt.in, "~?") != (help.Len() > 0) {
				t.Errorf("%q: got help %q", tt.in, help.String())
			}
		}
	}
}

func TestProgressLines(t *testing.T) {
	for _, tt := range []struct {
		name        string
		moved, size int64
		spent       time.Duration
		want        []string
	}{
		{"f", 0, 1000, 0, []string{"f ", "0%", "0 B"}},
		{"f", 450_000, 1_000_000, time.Second, []string{"45%", "450.0 kB", "450.0 kB/s", "0:01 left"}},
		{"f", 1_000_000, 1_000_000, 2 * time.Second, []string{"100%", "1.0 MB", "500.0 kB/s"}},
		{"f", 2_000_000, 1_000_000, time.Second, []string{"100%"}},
		{"f", 5_000_000_000, 0, time.Second, []string{"5.0 GB"}},
		{strings.Repeat("long", 50), 1, 2, time.Hour, []string{"…", "50%", "1:00:00 left"}},
	} {
		got := progressLine(tt.name, tt.moved, tt.size, tt.spent, 79)
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

func TestParseLocation(t *testing.T) {
	for in, want := range map[string]string{
		"f": "here f", "./a:b": "here ./a:b", "/x:y": "here /x:y", "web-1:": "web-1 .", "web-1:~": "web-1 .", "web-1:~/x": "web-1 ./x", "web-1:/etc/x": "web-1 /etc/x",
		"me@web-1:x": "me@web-1 x", "WEB-1:x:y": "web-1 x:y",
	} {
		p, err := parseLocation(in)
		got := "here " + p.path
		if p.on != nil {
			got = p.on.node + " " + p.path
			if p.on.login != "" {
				got = string(p.on.login) + "@" + got
			}
		}
		if err != nil || got != want {
			t.Errorf("%q: got %q (%v), want %q", in, got, err, want)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a", "..", "a/b", "\x1b", "é", "", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) == nil &&
			(name == "" || name == ".." || strings.ContainsAny(name, "/\\\x00\n\x1b") || clean(name) != name) {
			t.Errorf("accepts %q", name)
		}
	})
}
