package tsh_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
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

// browse plays a browser in which the login succeeds: it calls the callback with a valid code.
func (c *client) browse(page string) {
	u, err := url.Parse(page)
	if err != nil {
		c.t.Errorf("page %q: %v", page, err)
		return
	}
	q := u.Query()
	answer := url.Values{"code": {"good-" + q.Get("challenge")}, "state": {q.Get("state")}}
	c.callBack(q.Get("callback"), answer)
}

// callBack calls the callback on loopback and returns the status and the page.
func (c *client) callBack(callback string, q url.Values) (int, string) {
	resp, err := http.Get(callback + "?" + q.Encode())
	if err != nil {
		c.t.Errorf("loopback: %v", err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// neverBrowse returns a browser that must not be opened.
func neverBrowse(t *testing.T, name string) func(string) {
	return func(page string) { t.Errorf("%s: got %s opened, want a refusal before", name, page) }
}

// A login with --ca-file or --pin leaves a profile that only the user can read, and shows who is logged in.
func TestLoginLeavesAProfile(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]func(*testCluster) []string{
		"with --ca-file": func(tc *testCluster) []string { return []string{"--ca-file", tc.caFile()} },
		"with --pin":     func(tc *testCluster) []string { return []string{"--pin", tc.Pin().String()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc := newTestCluster(t)
			c := tc.client()
			r := c.login(c.browse, flags(tc)...)
			if r.code != 0 {
				t.Fatalf("got %d %s", r.code, r.stderr)
			}
			for _, want := range []string{
				"alice@example.com", clusterName, "Logins", "alice", "ops", "Valid until",
			} {
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

// checkModes checks that only the user can read the files in home.
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

// Wrong flags, a wrong pin and an unknown web certificate are refused before the browser is opened, and
// nothing is written.
func TestLoginRefuses(t *testing.T) {
	t.Parallel()
	tc, other := newTestCluster(t), newTestCluster(t)
	for _, tt := range []struct {
		name  string
		flags []string
		words []string
	}{
		{"a wrong pin, before any browser", []string{"--pin", other.Pin().String()}, []string{"pin"}},
		{"half a pin", []string{"--pin", "sha256:abc"}, []string{"64 hex digits"}},
		{"an unknown web certificate", nil, []string{"certificate", "--ca-file", "--pin"}},
		{"another cluster's authority", []string{"--ca-file", other.caFile()}, []string{"certificate"}},
		{"an authority file without a certificate", []string{"--ca-file", "/dev/null"}, []string{"PEM"}},
		{"a missing authority file", []string{"--ca-file", "/nonexistent"}, []string{"cannot be read"}},
		{"an unknown browser", []string{"--browser=lynx"}, []string{"--browser=none"}},
		{"an unknown agent mode", []string{"--add-keys-to-agent=maybe"}, []string{"auto, yes or no"}},
	} {
		c := tc.client()
		r := c.login(neverBrowse(t, tt.name), tt.flags...)
		c.wantRefusal(r, tt.name, 1, tt.words...)
		if _, err := os.Stat(c.home); err == nil {
			t.Errorf("%s: got a profile, want none", tt.name)
		}
	}
}

func TestLearnedPinIsKept(t *testing.T) {
	t.Parallel()
	tc, other := newTestCluster(t), newTestCluster(t)
	c := tc.client()
	if r := c.login(c.browse, "--ca-file", tc.caFile()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	c.ok("logout")
	tc.mu.Lock()
	tc.pingPin = other.Pin()
	tc.mu.Unlock()
	r := c.login(neverBrowse(t, "another root"), "--ca-file", tc.caFile())
	kept, shown := tc.Pin().String(), other.Pin().String()
	c.wantRefusal(r, "another root", 1, "NOT THE ONE", kept, shown, "--pin")
	if r := c.login(c.browse); r.code != 0 { // without --ca-file the kept pin is enough; ping is not called
		t.Errorf("got %s, want a login with the kept pin", r.stderr)
	}
}

// After a cluster was rebuilt, its root certificate in --ca-file is enough to log in, although the profile
// has the old pin.
func TestFileWithTheClusterRootReplacesTheKeptPin(t *testing.T) {
	t.Parallel()
	old := newTestCluster(t)
	c := old.client()
	if r := c.login(c.browse, "--ca-file", old.caFile()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	rebuilt := newTestCluster(t) // another cluster at an address that the profile knows
	c.replaceInProfile(old.addr, rebuilt.addr)
	d := rebuilt.client()
	d.home = c.home
	if r := d.login(d.browse, "--ca-file", rebuilt.caFile()); r.code != 0 {
		t.Errorf("got %s, want a login: the file identifies the root as --pin does", r.stderr)
	}
}

// Requests of other web pages to the callback do not end the login: without its state they are refused.
func TestLoopbackAcceptsOnlyItsOwnState(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		q := u.Query()
		callback := q.Get("callback")
		good := url.Values{"code": {"good-" + q.Get("challenge")}, "state": {q.Get("state")}}
		if u.Path != "/login" || u.Host != tc.addr || !strings.HasPrefix(callback, "http://127.0.0.1:") {
			t.Errorf("got page %s, want the proxy's login with a loopback callback", page)
		}
		code, body := c.callBack(callback, url.Values{"code": {"evil"}, "state": {"guess"}})
		if code != http.StatusForbidden || !strings.Contains(body, "tsh login") {
			t.Errorf("a wrong state: got %d %q, want 403 and what to do", code, body)
		}
		if code, _ := c.callBack(callback, url.Values{"code": {"evil"}}); code != http.StatusForbidden {
			t.Errorf("no state: got %d, want 403", code)
		}
		other := strings.TrimSuffix(callback, "/callback") + "/other"
		if code, _ := c.callBack(other, good); code != http.StatusNotFound {
			t.Errorf("another path: got %d, want 404", code)
		}
		code, body = c.callBack(callback, good)
		if code != http.StatusOK || !strings.Contains(body, "close this window") {
			t.Errorf("the right state: got %d %q, want the result page", code, body)
		}
	}, "--pin", tc.Pin().String())
	if r.code != 0 {
		t.Errorf("got %s, want a login", r.stderr)
	}
}

// Nothing of an answer of the auth service is stored if one part of it cannot be verified.
func TestLoginRefusesInvalidResponsesOfAuth(t *testing.T) {
	t.Parallel()
	otherKey, err := ssh.NewPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	other := newTestCluster(t)
	clock := func(ahead time.Duration) func(*testCluster, *client) {
		return func(_ *testCluster, c *client) { c.now = func() time.Time { return time.Now().Add(ahead) } }
	}
	for _, tt := range []struct {
		name  string
		spoil func(*testCluster, *client)
		words []string
	}{
		{
			"authorities of another cluster",
			func(tc *testCluster, _ *client) { tc.chain = other.chain },
			[]string{"pin"},
		},
		{
			"no authorities",
			func(tc *testCluster, _ *client) { tc.chain = nil },
			[]string{"no authorities"},
		},
		{
			"a certificate for another key",
			func(tc *testCluster, _ *client) { tc.certifyKey = otherKey.Marshal() },
			[]string{"not for our key"},
		},
		{"our clock ten minutes ahead", clock(10 * time.Minute), []string{"clock is 10m", "ahead"}},
		{"our clock ten minutes behind", clock(-10 * time.Minute), []string{"clock"}},
	} {
		tc := newTestCluster(t)
		c := tc.client()
		tt.spoil(tc, c)
		r := c.login(c.browse, "--pin", tc.Pin().String())
		c.wantRefusal(r, tt.name, 1, tt.words...)
		if _, err := os.Stat(c.home); err == nil {
			t.Errorf("%s: got a profile, want none", tt.name)
		}
	}
}

func TestLoginRefusesAWrongCode(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		q := u.Query()
		c.callBack(q.Get("callback"), url.Values{"code": {"bad"}, "state": {q.Get("state")}})
	}, "--pin", tc.Pin().String())
	c.wantRefusal(r, "a wrong code", 1, "login code")
	if _, err := os.Stat(c.home); err == nil {
		t.Error("got a profile, want none")
	}
}

func TestWrongClockIsReportedBeforeTheBrowserOpens(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	c.now = func() time.Time { return time.Now().Add(10 * time.Minute) }
	r := c.login(neverBrowse(t, "a wrong clock"), "--ca-file", tc.caFile())
	c.wantRefusal(r, "ten minutes ahead", 1, "clock is 10m", "ahead", "set this machine's clock")
}

func TestLoginCanBeInterrupted(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	ctx, cancel := context.WithCancel(t.Context())
	r := c.loginIn(ctx, func(string) { cancel() }, "--browser=none", "--pin", tc.Pin().String())
	c.wantRefusal(r, "Ctrl-C", 1, "interrupted")
}

func TestRefusalInTheBrowserEndsTheLogin(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		q := u.Query()
		answer := url.Values{"error": {"access_denied\x1b[2J"}, "state": {q.Get("state")}}
		c.callBack(q.Get("callback"), answer)
	}, "--pin", tc.Pin().String())
	c.wantRefusal(r, "refusal", 1, "access_denied")
	if strings.Contains(r.stderr, "\x1b") {
		t.Errorf("got %q, want no escape sequence", r.stderr)
	}
}

func TestUserWithoutLoginsCanListNodes(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.logins = nil
	tc.addNode("web-1")
	c := tc.loggedIn()
	if out := c.ok("ls"); !strings.Contains(out, "web-1") {
		t.Errorf("got %q, want the node", out)
	}
	c.refused(255, []string{"ssh", "web-1"}, "no role")
	c.refused(1, []string{"config"}, "no role")
}

func TestExpiredLoginFailsBeforeTheNetwork(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	c.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	for _, args := range [][]string{{"ls"}, {"scp", "a", "web-1:"}, {"get", "roles"}, {"status"}} {
		c.refused(1, args, "expired", "tsh login --proxy "+tc.addr)
	}
	c.refused(255, []string{"ssh", "web-1"}, "expired", "tsh login --proxy "+tc.addr)
	c.now = func() time.Time { return time.Now().Add(-time.Hour) }
	c.refused(1, []string{"ls"}, "clock")
	if calls := tc.takeCalls(); calls != nil {
		t.Errorf("got calls %q, want none", calls)
	}
}

// The time left is shown in minutes, also when less than one is left.
func TestStatusSaysHowLongALoginIsValid(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t).loggedIn()
	var logins []struct{ Expires time.Time }
	err := json.Unmarshal([]byte(c.ok("status", "--format=json")), &logins)
	if err != nil || len(logins) != 1 {
		t.Fatalf("got %v (%v), want one login", logins, err)
	}
	for left, want := range map[time.Duration]string{
		30 * time.Minute: "(30m left)",
		time.Minute:      "(1m left)",
		59 * time.Second: "(less than a minute left)",
		time.Second:      "(less than a minute left)",
	} {
		c.now = func() time.Time { return logins[0].Expires.Add(-left) }
		if out := c.ok("status"); !strings.Contains(out, want) {
			t.Errorf("%s before the end: got %q, want %q in it", left, out, want)
		}
	}
}

func TestDamagedProfileIsReported(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	for _, name := range []string{
		"ssh_key", "ssh_key-cert.pub", "x509_cert.pem", "authorities.json", "profile.json",
	} {
		c := tc.loggedIn()
		found, err := filepath.Glob(filepath.Join(c.home, "clusters", "*", name))
		if err != nil || len(found) != 1 {
			t.Fatalf("got %q %v, want one %s", found, err, name)
		}
		if err := os.WriteFile(found[0], []byte("???"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.refused(1, []string{"ls"}, "damaged", "tsh login")
	}
}

// A logout deletes everything but the pin. Afterwards commands say that the user is not logged in.
func TestLogoutRemovesKeysAndKeepsThePin(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	c.ok("logout", "--all")
	left, err := filepath.Glob(filepath.Join(c.home, "clusters", "*", "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "profile.json" {
		t.Errorf("got %q left, want only profile.json", left)
	}
	b, err := os.ReadFile(left[0])
	pin := tc.Pin().String()
	if err != nil || !strings.Contains(string(b), pin) || strings.Contains(string(b), "alice") {
		t.Errorf("got %s (%v), want the pin and no user", b, err)
	}
	r := c.run("logout")
	if r.code != 0 || !strings.Contains(r.stderr, "You were not logged in at "+clusterName) {
		t.Errorf("got %+v, want a message that there was nothing to do", r)
	}
	c.refused(1, []string{"ls"}, "not logged in", "tsh login --proxy "+tc.addr)
	c.refused(1, []string{"status"}, "not logged in")
}

func TestResultPageInKorean(t *testing.T) {
	t.Parallel()
	for chosen, accepted := range map[string]string{"": "ko-KR,ko;q=0.9,en;q=0.5", "ko": "en-US"} {
		wantKoreanPage(t, chosen, accepted)
	}
}

// wantKoreanPage logs in and checks that the result page is Korean. chosen is the language chosen at the
// proxy, if any; accepted is the browser's Accept-Language.
func wantKoreanPage(t *testing.T, chosen, accepted string) {
	t.Helper()
	tc := newTestCluster(t)
	c := tc.client()
	r := c.login(func(page string) {
		u, _ := url.Parse(page)
		q := u.Query()
		answer := url.Values{
			"code":  {"good-" + q.Get("challenge")},
			"state": {q.Get("state")},
			"lang":  {chosen},
		}
		req, err := http.NewRequest(http.MethodGet, q.Get("callback")+"?"+answer.Encode(), nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Accept-Language", accepted)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		policy := resp.Header.Get("Content-Security-Policy")
		if !strings.Contains(string(body), "터미널로 돌아가세요") || policy == "" {
			t.Errorf("got %s, want the Korean page and a content security policy", body)
		}
	}, "--pin", tc.Pin().String())
	if r.code != 0 {
		t.Errorf("got %s, want a login", r.stderr)
	}
}
