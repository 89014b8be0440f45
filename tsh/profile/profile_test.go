package profile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ tshHome, home, want string }{
		{"/a/b", "/home/x", "/a/b"},
		{"", "/home/x", "/home/x/.tsh"},
		{"", "", ""},
	} {
		env := map[string]string{"TSH_HOME": tt.tshHome, "HOME": tt.home}
		h, err := profile.Open(func(k string) string { return env[k] })
		if string(h) != tt.want || (err == nil) != (tt.want != "") || err != nil && fault.Remedy(err) == "" {
			t.Errorf("%+v: got %q (%v)", tt, h, err)
		}
	}
}

// An address becomes host:port. Text that would be unsafe in a file name or an OpenSSH configuration is
// refused.
func TestParseProxy(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"access.example.com":      "access.example.com:443",
		"ACCESS.example.com:8443": "access.example.com:8443",
		"https://x.example.com/":  "x.example.com:443",
		"127.0.0.1:8443":          "127.0.0.1:8443",
		"[::1]:8443":              "[::1]:8443",
		"::1":                     "[::1]:443",
	} {
		if got, err := profile.ParseProxy(in); err != nil || got != want {
			t.Errorf("%q: got %q (%v), want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "a b", "x:0", "x:99999", "x:http", "../x", "x/y", "-oProxyCommand=id", "x;id", "a:b:c",
		"x\nHost *", ".hidden",
	} {
		if got, err := profile.ParseProxy(in); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%q: got %q (%v), want refused with a remedy", in, got, err)
		}
	}
}

func TestDirsOfProxiesDiffer(t *testing.T) {
	t.Parallel()
	h, seen := profile.Home("/h"), map[string]string{}
	for _, addr := range []string{"a:443", "a:8443", "b:443", "[::1]:443", "[::1]:1", "127.0.0.1:443"} {
		dir := h.Dir(addr)
		if seen[dir] != "" || filepath.Dir(dir) != "/h" || strings.ContainsAny(filepath.Base(dir), ":/ ") {
			t.Errorf("%s: got %s, also of %q", addr, dir, seen[dir])
		}
		seen[dir] = addr
	}
}

func TestUnknownProxy(t *testing.T) {
	t.Parallel()
	h := profile.Home(t.TempDir())
	_, err := h.Load("x:443")
	if !fault.Is(err, fault.NotFound) || fault.Remedy(err) != "run: tsh login --proxy x" {
		t.Errorf("got %v (%s), want the hint to log in", err, fault.Remedy(err))
	}
	if _, err := h.Current(); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want NotFound", err)
	}
	if all, err := h.Proxies(); err != nil || len(all) != 0 {
		t.Errorf("got %v (%v), want none", all, err)
	}
}

// A profile of a newer format, or a damaged one, is refused with a remedy.
func TestProfileOfANewerTshIsRefused(t *testing.T) {
	t.Parallel()
	h := profile.Home(t.TempDir())
	path := filepath.Join(h.Dir("x:443"), "profile.yaml")
	if err := os.MkdirAll(h.Dir("x:443"), 0o700); err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{
		"version: 2\nproxy: x:443\npin: p\n":           "newer tsh",
		"version: 1\nproxy: x:443\n":                   "damaged",
		"version: 1\nproxy: x:443\npin: p\nbogus: 1\n": "damaged",
		"{": "damaged",
	} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := h.Load("x:443")
		if err == nil || !strings.Contains(fault.Message(err), want) || fault.Remedy(err) == "" {
			t.Errorf("%q: got %v, want %q and a remedy", body, err, want)
		}
	}
}
