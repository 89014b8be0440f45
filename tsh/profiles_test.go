package tsh_test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// replaceInProfile replaces text in profile.json of the cluster.
func (c *client) replaceInProfile(old, text string) {
	c.t.Helper()
	path := filepath.Join(c.home, "clusters", clusterName, "profile.json")
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), old) {
		c.t.Fatalf("got %s (%v), want %q in it", b, err, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), old, text)), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// proxies returns the addresses in the profile of the cluster, by tsh status.
func (c *client) proxies() []string {
	c.t.Helper()
	var logins []struct{ Proxies []string }
	r := c.run("status", "--format=json", "--cluster", clusterName)
	if err := json.Unmarshal([]byte(r.out), &logins); err != nil || len(logins) != 1 {
		c.t.Fatalf("got %+v (%v), want one login", r, err)
	}
	return logins[0].Proxies
}

// localhost is another address of the proxy.
func (tc *testCluster) localhost() string {
	_, port, _ := net.SplitHostPort(tc.addr)
	return "localhost:" + port
}

// closedAddress is an address at which nothing listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A login at a second proxy of a cluster renews the one login there. Both addresses are kept, the latest
// first.
func TestAClusterHasOneLoginAndSeveralProxies(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	if r := c.login(c.browse, "--proxy", tc.localhost(), "--pin", tc.Pin().String()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if got := c.proxies(); !slices.Equal(got, []string{tc.localhost(), tc.addr}) {
		t.Errorf("got %q, want both addresses, localhost first", got)
	}
	folders, err := os.ReadDir(filepath.Join(c.home, "clusters"))
	if err != nil || len(folders) != 1 {
		t.Errorf("got %v (%v), want one folder", folders, err)
	}
	for _, flags := range [][]string{
		nil, {"--proxy", tc.addr}, {"--proxy", tc.localhost()}, {"--cluster", clusterName},
		{"--cluster", clusterName, "--proxy", tc.addr},
	} {
		c.ok(append([]string{"ls"}, flags...)...)
	}
	c.refused(1, []string{"ls", "--proxy", "elsewhere.example.org"},
		"not logged in at elsewhere.example.org:443", "tsh login --proxy elsewhere.example.org")
	c.refused(1, []string{"ls", "--cluster", "other.example.org"}, "not logged in at other.example.org")
	c.refused(1, []string{"ls", "--cluster", "../x"}, "is not the name of a cluster", "tsh status")
	c.ok("logout", "--proxy", tc.addr) // of the cluster, so also at the other proxy
	c.refused(1, []string{"ls", "--proxy", tc.localhost()}, "not logged in")
	if got := c.proxies(); len(got) != 2 {
		t.Errorf("got %q after the logout, want both addresses kept", got)
	}
}

// Commands and a login without --proxy try the addresses in order. With --proxy only that one is tried.
func TestTheNextProxyIsTried(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	c := tc.loggedIn()
	if r := c.login(c.browse, "--proxy", tc.localhost(), "--pin", tc.Pin().String()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	closed := closedAddress(t)
	c.replaceInProfile(tc.localhost(), closed)
	if got := c.proxies(); !slices.Equal(got, []string{closed, tc.addr}) {
		t.Fatalf("got %q, want the closed address first", got)
	}
	if out := c.ok("ls"); !strings.Contains(out, "web-1") {
		t.Errorf("got %q, want the nodes by the second proxy", out)
	}
	if r := c.run("ssh", "alice@web-1", "true"); r.code != 0 {
		t.Errorf("got %+v, want a session through the second proxy", r)
	}
	c.refused(1, []string{"ls", "--proxy", closed}, closed)
	r := c.loginWith(c.browse, "--browser=none")
	if r.code != 0 {
		t.Fatalf("got %s, want a login at the second proxy", r.stderr)
	}
	if got := c.proxies(); !slices.Equal(got, []string{tc.addr, closed}) {
		t.Errorf("got %q, want the proxy of the login first", got)
	}
}

// A proxy of another cluster, and one that claims the name of a known cluster with another root, is not
// believed, and changes nothing.
func TestAnotherRootForAKnownClusterIsRefused(t *testing.T) {
	t.Parallel()
	tc, other := newTestCluster(t), newTestCluster(t) // of the same name
	shown := newTestCluster(t).Pin()                  // not of the root in the file, which would be enough
	other.mu.Lock()
	other.pingPin = shown
	other.mu.Unlock()
	c := tc.loggedIn()
	d := other.client()
	d.home, d.env = c.home, c.env
	r := d.login(neverBrowse(t, "another root"), "--ca-file", other.caFile())
	d.wantRefusal(r, "another root", 1, "NOT THE ONE", tc.Pin().String(), shown.String())
	r = d.login(neverBrowse(t, "by --cluster"), "--cluster", clusterName)
	d.wantRefusal(r, "by --cluster", 1, "pin")
	r = d.login(neverBrowse(t, "another cluster"), "--cluster", "other.example.org", "--ca-file",
		other.caFile())
	d.wantRefusal(r, "another cluster", 1, "is of the cluster "+clusterName)
	if got := c.proxies(); !slices.Equal(got, []string{tc.addr}) {
		t.Errorf("got %q, want the profile as it was", got)
	}
	c.ok("ls")
}

func TestStatusSaysWhenTheUserWasIdentified(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	var logins []struct {
		Auth_Time, Factor_Time, Issued_At time.Time
		Factor                            string
		Current                           bool
	}
	err := json.Unmarshal([]byte(c.ok("status", "--format=json")), &logins)
	if err != nil || len(logins) != 1 {
		t.Fatalf("got %+v (%v), want one login", logins, err)
	}
	got := logins[0]
	if got.Auth_Time.IsZero() || got.Factor_Time.Before(got.Auth_Time) || got.Issued_At.IsZero() ||
		got.Factor != "totp" || !got.Current {
		t.Errorf("got %+v, want when alice was identified and proved the factor", got)
	}
	out := c.ok("status")
	for _, want := range []string{"Identified at", got.Auth_Time.Local().Format("15:04"), "totp at "} {
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want %q in it", out, want)
		}
	}
}

// A user of an earlier tsh is asked to log in again, at the same proxy. Then everything is as usual.
func TestFoldersOfAnEarlierTshAskForANewLogin(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.client()
	if r := c.run("ls", "--format=json"); !strings.Contains(r.stderr, `"code":"login-missing"`) {
		t.Errorf("before any login: got %q, want the code login-missing", r.stderr)
	}
	if err := os.MkdirAll(filepath.Join(c.home, "127.0.0.1_443"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(c.home, "current"), []byte(tc.addr+"\n"), 0o600)
	for _, command := range []string{"ls", "status", "logout", "login"} {
		c.refused(1, []string{command}, "of an earlier tsh", "run: tsh login --proxy "+tc.addr)
	}
	r := c.run("ls", "--format=json")
	if !strings.Contains(r.stderr, `"code":"profile-outdated"`) {
		t.Errorf("got %q, want the code profile-outdated", r.stderr)
	}
	c.mustLogIn()
	c.ok("ls")
}
