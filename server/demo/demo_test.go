package demo

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExitStatus(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		args   []string
		status int
		output string
	}{
		{[]string{"--version"}, 0, "threshold-demo dev"},
		{[]string{"-h"}, 0, "until Ctrl-C"},
		{[]string{"--bogus"}, 2, "hint: run: threshold-demo -h"},
		{[]string{"bogus"}, 2, `unexpected argument "bogus"`},
		{[]string{"--listen", "nonsense"}, 1, "cannot listen on nonsense"},
		{[]string{"--listen", "127.0.0.1:0", "--data", "/dev/null/demo"}, 1, "--data DIR"},
	} {
		var out strings.Builder
		status := Main(ctx, "dev", tt.args, &out, &out)
		if status != tt.status || !strings.Contains(out.String(), tt.output) {
			t.Errorf("%v: got %d, %q, want %d, %q", tt.args, status, out.String(), tt.status, tt.output)
		}
	}
}

// The provider's address is its issuer name, and users keep their passwords and secrets.
func TestStateSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	first.Provider, first.Users[0].TOTPSecret = "127.0.0.1:4711", "GEZDGNBVGY3TQOJQ"
	if err := first.save(); err != nil {
		t.Fatal(err)
	}
	again, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(again); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(dir); err == nil {
		t.Error("a damaged state: got no error")
	}
}

func TestCodesAreThoseOfAnAuthenticatorApp(t *testing.T) {
	t.Parallel()
	// The secret and the time are of RFC 6238 appendix B, shortened to six digits.
	users := []account{{Email: "alice@example.com", TOTPSecret: "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"}}
	line, err := codeLine(users, time.Unix(59, 0))
	if err != nil || line != "alice 287082" {
		t.Errorf("got %q, %v, want alice 287082", line, err)
	}
}

// Scripts read demo.json. It only ever gains fields.
func TestFactsAreAsScriptsReadThem(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile(filepath.Join("testdata", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{dir: "/demo", public: "127.0.0.1:8443", state: &state{
		Account: "ubuntu",
		Users: []account{{
			Email:      "alice@example.com",
			Password:   "correct-horse",
			TOTPSecret: "GEZDGNBVGY3TQOJQ",
			Roles:      []string{"admin", "operator"},
		}},
	}}
	written := c.facts()
	written.Processes[0].PID = 4711
	got, err := json.MarshalIndent(written, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(golden)); string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The state of a newer demo is refused, and one with a field more is read.
func TestStateOfANewerDemo(t *testing.T) {
	t.Parallel()
	for text, refused := range map[string]bool{
		`{"v": 1, "account": "ubuntu"}`:                false,
		`{"v": 1, "account": "ubuntu", "tomorrow": 1}`: false,
		`{"v": 2, "account": "ubuntu"}`:                true,
		`{"account": "ubuntu"}`:                        true,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := loadState(dir)
		if refused != (err != nil) || !refused && got.Account != "ubuntu" {
			t.Errorf("%s: got %+v (%v), want refused %v", text, got, err, refused)
		}
	}
}
