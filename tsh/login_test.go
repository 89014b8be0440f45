package tsh_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// browse comes back to loopback as an honest browser would.
func (c *client) browse(page string) {
	u, err := url.Parse(page)
	if err != nil {
		c.t.Errorf("page %q: %v", page, err)
		return
	}
	q := u.Query()
	c.back(q.Get("callback"), url.Values{"code": {"good-" + q.Get("challenge")}, "state": {q.Get("state")}})
}

// back calls loopback and returns status and page.
func (c *client) back(callback string, q url.Values) (int, string) {
	resp, err := http.Get(callback + "?" + q.Encode())
	if err != nil {
		c.t.Errorf("loopback: %v", err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestLoginLeavesAProfile(t *testing.T) {
	for name, flags := range map[string]func(*testCluster) []string{
		"by the web certificate": func(w *testCluster) []string { return []string{"--ca-file", w.caFile()} },
		"by the pin":             func(w *testCluster) []string { return []string{"--pin", w.keys.Pin().String()} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestCluster(t)
			c := w.client()
			r := c.login(c.browse, flags(w)...)
			if r.code != 0 {
				t.Fatalf("got %d %s", r.code, r.stderr)
			}
			for _, want := range []string{"alice@example.com", clusterName, "Logins", "alice", "ops", "Valid until"} {
				if !strings.Contains(r.out, want) {
					t.Errorf("got %q, want %q in it", r.out, want)
				}
			}
			if !strings.Contains(r.stderr, "tsh ssh") {
				t.Errorf("got %q, want the next step", r.stderr)
			}
			checkModes(t, c.home)
			if out := c.ok("status"); !strings.Contains(out, "alice@example.com") {
				t.Errorf("got status %q, want alice", out)
			}
		})
	}
}

func checkModes(t *testing.T, home string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if n++; err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got mode %v (%v), want %o", path, info.Mode(), err, want)
		}
		return nil
	})
	if err != nil || n < 10 {
		t.Errorf("got %d files (%v), want the whole profile", n, err)
	}
}

func TestLoginRefuses(t *testing.T) {
	w, other := newTestCluster(t), newTestCluster(t)
	for _, tt := range []struct {
		name  string
		flags []string
		words []string
	}{
		{"a wrong pin, before any browser", []string{"--pin", other.keys.Pin().String()}, []string{"pin"}},
		{"half a pin", []string{"--pin", "sha256:abc"}, []string{"64 hex digits"}},
		{"an unknown web certificate", nil, []string{"certificate", "--ca-file", "--pin"}},
		{"another cluster's authority", []string{"--ca-file", other.caFile()}, []string{"certificate"}},
		{"an authority file that is none", []string{"--ca-file", "/dev/null"}, []string{"PEM"}},
		{"an authority file that is not there", []string{"--ca-file", "/nonexistent"}, []string{"cannot be read"}},
		{"an unknown browser", []string{"--browser=lynx"}, []string{"--browser=none"}},
		{"an unknown way with agents", []string{"--add-keys-to-agent=maybe"}, []string{"auto, yes or no"}},
	} {
		c := w.client()
		r := c.login(
			func(page string) { t.Errorf("%s: got %s opened, want a refusal before", tt.name, page) },
			tt.flags...)
		c.wantRefusal(r, tt.name, 1, tt.words...)
		if _, err := os.Stat(c.home); err == nil {
			t.Errorf("%s: got a profile, want none", tt.name)
		}
	}
}

func TestLearnedPinIsKept(t *testing.T) {
	w, other := newTestCluster(t), newTestCluster(t)
	c := w.client()
	if r := c.login(c.browse, "--ca-file", w.caFile()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	c.ok("logout")
	w.mu.Lock()
	w.pingPin = other.keys.Pin()
	w.mu.Unlock()
	nobody := func(page string) { t.Errorf("got %s opened, want a refusal before", page) }
	c.wantRefusal(
		c.login(nobody, "--ca-file", w.caFile()),
		"another root",
		1,
		"NOT THE ONE",
		w.keys.Pin().String(),
		other.keys.Pin().String(),
		"--pin",
	)
	if r := c.login(c.browse); r.code != 0 { // the kept pin alone is enough: what ping says is not asked
		t.Errorf("got %s, want a login by the kept pin", r.stderr)
	}
}

func TestFileWithTheClusterRootReplacesTheKeptPin(t *testing.T) {
	old := newTestCluster(t)
	c := old.client()
	if r := c.login(c.browse, "--ca-file", old.caFile()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	rebuilt := newTestCluster(t) // another cluster at an address that the profile knows
	info := filepath.Join(c.home, strings.ReplaceAll(old.addr, ":", "_"))
	if err := os.Rename(info, filepath.Join(c.home, strings.ReplaceAll(rebuilt.addr, ":", "_"))); err != nil {
		t.Fatal(err)
	}
	d := rebuilt.client()
	d.home = c.home
	if r := d.login(d.browse, "--ca-file", rebuilt.caFile()); r.code != 0 {
		t.Errorf("got %s, want a login: the file names the root as surely as --pin", r.stderr)
	}
}

func TestLoopbackAcceptsOnlyItsOwnState(t *testing.T) {
	w := newTestCluster(t)
	c := w.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		q := u.Query()
		good := url.Values{"code": {"good-" + q.Get("challenge")}, "state": {q.Get("state")}}
		if u.Path != "/login" || u.Host != w.addr ||
			!strings.HasPrefix(q.Get("callback"), "http://127.0.0.1:") {
			t.Errorf("got page %s, want the proxy's login with a loopback callback", page)
		}
		if code, body := c.back(q.Get("callback"), url.Values{"code": {"evil"}, "state": {"guess"}}); code != http.StatusForbidden ||
			!strings.Contains(body, "tsh login") {
			t.Errorf("a wrong state: got %d %q, want 403 and what to do", code, body)
		}
		if code, _ := c.back(q.Get("callback"), url.Values{"code": {"evil"}}); code != http.StatusForbidden {
			t.Errorf("no state: got %d, want 403", code)
		}
		if code, _ := c.back(strings.TrimSuffix(q.Get("callback"), "/callback")+"/other", good); code != http.StatusNotFound {
			t.Errorf("another path: got %d, want 404", code)
		}
		if code, body := c.back(q.Get("callback"), good); code != http.StatusOK ||
			!strings.Contains(body, "close this window") {
			t.Errorf("our state: got %d %q, want the closing page", code, body)
		}
	}, "--pin", w.keys.Pin().String())
	if r.code != 0 {
		t.Errorf("got %s, want a login", r.stderr)
	}
}

func TestLoginRefusesInvalidResponsesOfAuth(t *testing.T) {
	stranger, err := ssh.NewPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	other := newTestCluster(t)
	for _, tt := range []struct {
		name  string
		spoil func(*testCluster, *client)
		words []string
	}{
		{"authorities of another cluster", func(w *testCluster, _ *client) { w.chain = other.chain }, []string{"pin"}},
		{"no authorities", func(w *testCluster, _ *client) { w.chain = nil }, []string{"no authorities"}},
		{"a certificate for another key", func(w *testCluster, _ *client) { w.certifyKey = stranger.Marshal() }, []string{"not for our key"}},
		{"our clock ten minutes ahead", func(_ *testCluster, c *client) { c.now = func() time.Time { return time.Now().Add(10 * time.Minute) } }, []string{"clock is 10m", "ahead"}},
		{"our clock ten minutes behind", func(_ *testCluster, c *client) { c.now = func() time.Time { return time.Now().Add(-10 * time.Minute) } }, []string{"clock"}},
		{"a code that is not good", func(_ *testCluster, c *client) { c.env["spoil"] = "code" }, []string{"login code"}},
	} {
		w := newTestCluster(t)
		c := w.client()
		tt.spoil(w, c)
		browse := c.browse
		if c.env["spoil"] != "" {
			browse = func(page string) {
				u, _ := url.Parse(page)
				c.back(
					u.Query().Get("callback"),
					url.Values{"code": {"bad"}, "state": {u.Query().Get("state")}},
				)
			}
		}
		c.wantRefusal(c.login(browse, "--pin", w.keys.Pin().String()), tt.name, 1, tt.words...)
		if _, err := os.Stat(c.home); err == nil {
			t.Errorf("%s: got a profile, want none", tt.name)
		}
	}
}

func TestWrongClockIsReportedBeforeTheBrowserOpens(t *testing.T) {
	w := newTestCluster(t)
	c := w.client()
	c.now = func() time.Time { return time.Now().Add(10 * time.Minute) }
	r := c.login(
		func(page string) { t.Errorf("got %s opened, want a refusal before", page) },
		"--ca-file",
		w.caFile(),
	)
	c.wantRefusal(r, "ten minutes ahead", 1, "clock is 10m", "ahead", "set this machine's clock")
}

func TestLoginCanBeInterrupted(t *testing.T) {
	w := newTestCluster(t)
	c := w.client()
	ctx, cancel := context.WithCancel(t.Context())
	r := c.loginIn(ctx, func(string) { cancel() }, "--browser=none", "--pin", w.keys.Pin().String())
	c.wantRefusal(r, "Ctrl-C", 1, "interrupted")
}

func TestRefusalInTheBrowserEndsTheLogin(t *testing.T) {
	w := newTestCluster(t)
	c := w.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		c.back(
			u.Query().Get("callback"),
			url.Values{"error": {"access_denied\x1b[2J"}, "state": {u.Query().Get("state")}},
		)
	}, "--pin", w.keys.Pin().String())
	c.wantRefusal(r, "refusal", 1, "access_denied")
	if strings.Contains(r.stderr, "\x1b") {
		t.Errorf("got %q, want no escape sequence", r.stderr)
	}
}

func TestUserWithoutLoginsCanListNodes(t *testing.T) {
	w := newTestCluster(t)
	w.logins = nil
	w.addNode("web-1")
	c := w.loggedIn()
	if out := c.ok("ls"); !strings.Contains(out, "web-1") {
		t.Errorf("got %q, want the node", out)
	}
	c.refused(255, []string{"ssh", "web-1"}, "no role")
	c.refused(1, []string{"config"}, "no role")
}

func TestExpiredLoginFailsBeforeTheNetwork(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	c.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	for _, args := range [][]string{{"ls"}, {"scp", "a", "web-1:"}, {"get", "roles"}, {"status"}} {
		c.refused(1, args, "ended", "tsh login --proxy "+w.addr)
	}
	c.refused(255, []string{"ssh", "web-1"}, "ended", "tsh login --proxy "+w.addr)
	c.now = func() time.Time { return time.Now().Add(-time.Hour) }
	c.refused(1, []string{"ls"}, "clock")
	if got := w.takeCalls(); got != nil {
		t.Errorf("got %q asked, want nothing", got)
	}
}

func TestDamagedProfileIsReported(t *testing.T) {
	w := newTestCluster(t)
	for _, name := range []string{"ssh_key", "ssh_key-cert.pub", "x509_cert.pem", "authorities.json", "profile.yaml"} {
		c := w.loggedIn()
		found, err := filepath.Glob(filepath.Join(c.home, "*", name))
		if err != nil || len(found) != 1 {
			t.Fatalf("got %q %v, want one %s", found, err, name)
		}
		if err := os.WriteFile(found[0], []byte("???"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.refused(1, []string{"ls"}, "damaged", "tsh login")
	}
}

func TestLogoutRemovesKeysAndKeepsThePin(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	c.ok("logout", "--all")
	left, err := filepath.Glob(filepath.Join(c.home, "*", "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "profile.yaml" {
		t.Errorf("got %q left, want the pin alone", left)
	}
	b, err := os.ReadFile(left[0])
	if err != nil || !strings.Contains(string(b), w.keys.Pin().String()) ||
		strings.Contains(string(b), "alice") {
		t.Errorf("got %s (%v), want the pin and no person", b, err)
	}
	if r := c.run("logout"); r.code != 0 || !strings.Contains(r.stderr, "Nobody was logged in at "+w.addr) {
		t.Errorf("got %+v, want it told that there was nothing to do", r)
	}
	c.refused(1, []string{"ls"}, "not logged in", "tsh login --proxy "+w.addr)
	c.refused(1, []string{"status"}, "not logged in")
}

func TestResultPageInKorean(t *testing.T) {
	for chosen, browser := range map[string]string{"": "ko-KR,ko;q=0.9,en;q=0.5", "ko": "en-US"} {
		wantKoreanPage(t, chosen, browser)
	}
}

// wantKoreanPage logs in with a language chosen at the proxy, if any, and one that the browser asks for.
func wantKoreanPage(t *testing.T, chosen, browser string) {
	t.Helper()
	w := newTestCluster(t)
	c := w.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		q := u.Query()
		req, err := http.NewRequest(
			http.MethodGet,
			q.Get(
				"callback",
			)+"?"+url.Values{
				"code":  {"good-" + q.Get("challenge")},
				"state": {q.Get("state")},
				"lang":  {chosen},
			}.Encode(),
			nil,
		)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Accept-Language", browser)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); !strings.Contains(string(b), "터미널로 돌아가세요") ||
			resp.Header.Get("Content-Security-Policy") == "" {
			t.Errorf("got %s, want the Korean page under a policy", b)
		}
	}, "--pin", w.keys.Pin().String())
	if r.code != 0 {
		t.Errorf("got %s, want a login", r.stderr)
	}
}
