package tsh_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// revisionOf is the revision of a signed document.
func revisionOf(t testing.TB, s rules.Signed) rules.Revision {
	var doc rules.Document
	if err := json.Unmarshal(s.Payload, &doc); err != nil {
		t.Error(err)
	}
	return doc.Revision
}

// signLocks signs a newer document with these locks of machines.
func (tc *testCluster) signLocks(locks ...access.Lock) *rules.Signed {
	tc.SetMachineLocks(locks...)
	doc := tc.SignRules().Docs[rules.MachineLocksKind]
	return &doc
}

// publish makes auth and proxies send a document of locks.
func (tc *testCluster) publish(byAuth, byProxies *rules.Signed) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.locks, tc.proxyLocks = byAuth, byProxies
}

func (tc *testCluster) getMachineLocks(
	authrpc.GetMachineLocksRequest,
) (res authrpc.GetMachineLocksResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	if tc.locks == nil {
		return res, faulttest.New(fault.Unavailable, "auth", "there are no rules yet", "wait")
	}
	return authrpc.GetMachineLocksResponse{MachineLocks: *tc.locks}, nil
}

// stolen is the lock of a machine that was stolen.
func stolen(id identity.MachineID) access.Lock {
	lock := access.NewLock(access.Facts{Machine: id}, access.Effect{Kind: access.Deny})
	lock.Message, lock.Author = "the machine was stolen", "root@example.com"
	return lock
}

// locksFile is the path of the locks in the profile.
func (c *client) locksFile() string {
	return filepath.Join(c.home, "clusters", clusterName, "machine-locks.json")
}

// wantRefused checks that the node is refused because it is locked, whatever a user does with it, and that
// nothing runs there.
func (c *client) wantRefused(node string) {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"ssh", node, "true"},
		{"ssh", node + "." + clusterName, "true"},
		{"ssh", "-N", "-R", "8080:db:80", node},
		{"ssh", "-W", "db:80", node},
		{"scp", file, node + ":"},
	} {
		code := 255
		if args[0] == "scp" {
			code = 1
		}
		c.refused(code, args, "node "+node, "may not be used: lock ", "the machine was stolen",
			"ask root@example.com, who made the lock")
	}
}

// A stolen node goes on with its old certificate, behind a stolen proxy that ignores locks. tsh connects as
// long as it has not heard of the lock, because it asks nobody before it connects. Once it has heard, from a
// login or from any proxy, it refuses the node, also when the proxy withholds what is newer or sends what is
// older.
func TestALockedNodeIsRefusedByTsh(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	node.root = t.TempDir()
	tc.addNode("web-2")
	c := tc.loggedIn()
	before := tc.signLocks()
	locked := tc.signLocks(stolen(node.id))

	tc.publish(locked, nil)
	c.ok("ssh", "web-1", "true") // it has not heard of the lock
	if _, err := os.Stat(c.locksFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no file before any locks came", err)
	}

	tc.publish(locked, locked)
	c.ok("ssh", "web-2", "true") // an honest proxy
	if info, err := os.Stat(c.locksFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v (%v), want the locks in a file of mode 0600", info, err)
	}
	tc.takeCalls()
	for name, sends := range map[string]*rules.Signed{
		"an honest proxy": locked, "one that withholds": nil, "one that sends older locks": before,
	} {
		tc.publish(nil, sends)
		c.wantRefused("web-1")
		if r := c.run("ssh", "web-2", "true"); r.code != 0 || strings.Contains(r.stderr, "lock") {
			t.Errorf("%s: got %+v, want the other node as ever", name, r)
		}
	}
	for _, call := range tc.takeCalls() {
		if !strings.HasPrefix(call, "dial ") {
			t.Errorf("got the call %s, want nothing but dial requests", call)
		}
	}
	tc.publish(nil, tc.signLocks())
	c.ok("ssh", "web-1", "true") // the lock was removed, and an honest proxy says so with this very reply

	fresh := tc.client()
	tc.publish(locked, nil)
	fresh.mustLogIn()
	fresh.wantRefused("web-1") // by what the login has brought
}

// A lock that comes with the reply of a dial counts already for that connection.
func TestALockCountsForTheConnectionThatBringsIt(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	ran := make(chan string, 1)
	node.command = func(cmd string, _ ssh.Channel) ssh.Signal { ran <- cmd; return "" }
	c := tc.loggedIn()
	tc.publish(nil, tc.signLocks(stolen(node.id)))
	c.refused(255, []string{"ssh", "web-1", "true"}, "node web-1 may not be used", "the machine was stolen")
	select {
	case cmd := <-ran:
		t.Errorf("got %q run on the locked node", cmd)
	default:
	}
}

// The end of a lock is judged by the clock of this machine.
func TestAMachineLockEnds(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	lock := stolen(node.id)
	lock.End = time.Now().Add(10 * time.Minute).UTC().Truncate(time.Second)
	c := tc.loggedIn()
	tc.publish(nil, tc.signLocks(lock))
	c.refused(255, []string{"ssh", "web-1", "true"}, "until "+lock.End.Format(time.RFC3339))
	c.now = func() time.Time { return time.Now().Add(11 * time.Minute) }
	c.ok("ssh", "web-1", "true")
}

// A locked proxy is passed over with a line that says so, and if there is no other, the error says it. A
// login and calls of the auth service go on through it: it can read none of them.
func TestALockedProxyIsNotUsed(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	second, secondID := tc.listen("proxy-2")
	c := tc.loggedIn()
	tc.publish(tc.signLocks(stolen(secondID)), nil)
	if r := c.login(c.browse, "--proxy", second, "--pin", tc.Pin().String()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	tc.takeCalls()
	r := c.run("ssh", "web-1", "true")
	const says, and = "tsh: proxy proxy-2 may not be used: lock ", ": the machine was stolen; trying the next"
	if r.code != 0 || !strings.HasPrefix(r.stderr, says) || !strings.Contains(r.stderr, and) {
		t.Errorf("got %+v, want a session through the other proxy, and a line about the locked one", r)
	}
	if calls := tc.takeCalls(); !slices.Equal(calls, []string{"dial web-1"}) {
		t.Errorf("got calls %q, want only a dial request at the first proxy", calls)
	}
	for _, args := range [][]string{
		{"ssh", "--proxy", second, "web-1", "true"}, {"proxy", "ssh", "--proxy", second, "web-1"},
	} {
		c.refused(255, args, "proxy proxy-2 may not be used", "ask root@example.com", "--proxy HOST")
	}
	if calls := tc.takeCalls(); len(calls) != 0 {
		t.Errorf("got calls %q, want nothing sent to the locked proxy", calls)
	}
	c.ok("ls", "--proxy", second)
	tc.takeCalls()

	tc.publish(nil, tc.signLocks(stolen(secondID), stolen(tc.proxy)))
	c.refused(255, []string{"ssh", "web-1", "true"}, "proxy proxy-1 may not be used") // by its own reply
	tc.takeCalls()
	c.refused(255, []string{"ssh", "web-1", "true"}, "proxy proxy-2 may not be used", "proxy proxy-1 may not")
	if calls := tc.takeCalls(); len(calls) != 0 {
		t.Errorf("got calls %q, want nothing sent to locked proxies", calls)
	}
}

// An unreachable proxy beside a locked one does not hide the lock, and a locked one does not keep tsh from
// one that can be reached.
func TestALockedAndAnUnreachableProxy(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	second, secondID := tc.listen("proxy-2")
	c := tc.loggedIn()
	tc.publish(tc.signLocks(stolen(secondID)), nil)
	if r := c.login(c.browse, "--proxy", second, "--pin", tc.Pin().String()); r.code != 0 {
		t.Fatal(r.stderr)
	}
	c.replaceInProfile(tc.addr, closedAddress(t))
	c.refused(255, []string{"ssh", "web-1", "true"}, "error: proxy proxy-2 may not be used")
}

// Locks that a proxy has made up, changed or taken from another cluster are not used. tsh says so, keeps what
// it has, and connects.
func TestForgedMachineLocksAreNotUsed(t *testing.T) {
	t.Parallel()
	tc, other := newTestCluster(t), newTestCluster(t)
	node := tc.addNode("web-1")
	tc.addNode("web-2")
	first := tc.signLocks(stolen(node.id))
	tc.publish(first, nil)
	c := tc.loggedIn()
	changed := *tc.signLocks(stolen(node.id))
	changed.Payload = bytes.Replace(changed.Payload, []byte(node.id), []byte(strings.Repeat("e", 32)), 1)
	for range 9 {
		other.signLocks()
	}
	foreign := *other.signLocks()
	for name, doc := range map[string]rules.Signed{"changed": changed, "of another cluster": foreign} {
		tc.publish(nil, &doc)
		r := c.run("ssh", "web-2", "true")
		if r.code != 0 || !strings.Contains(r.stderr, "the locks of machines from the proxy are not used") {
			t.Errorf("%s: got %+v, want a session and a line about the locks", name, r)
		}
		c.refused(255, []string{"ssh", "web-1", "true"}, "node web-1 may not be used")
	}
}

// Locks that are too large for a reply come from the auth service, once. While it does not answer, tsh says
// so and connects by the locks that it has.
func TestManyMachineLocksComeFromAuth(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	tc.addNode("web-2")
	c := tc.loggedIn()
	locks := []access.Lock{stolen(node.id)}
	for i := range 300 {
		locks = append(locks, stolen(identity.MachineID(fmt.Sprintf("%032x", i))))
	}
	many := tc.signLocks(locks...)
	tc.publish(nil, many)
	r := c.run("ssh", "web-2", "true")
	if r.code != 0 || !strings.Contains(r.stderr, "the auth service did not send the locks of machines") {
		t.Errorf("got %+v, want a session without the locks, and a line about it", r)
	}
	tc.publish(many, many)
	tc.takeCalls()
	c.refused(255, []string{"ssh", "web-1", "true"}, "node web-1 may not be used")
	if calls := tc.takeCalls(); !slices.Equal(calls, []string{"dial web-1", "/v1/machine-locks/get"}) {
		t.Errorf("got calls %q, want the locks fetched", calls)
	}
	c.ok("ssh", "web-2", "true")
	if calls := tc.takeCalls(); !slices.Equal(calls, []string{"dial web-2"}) {
		t.Errorf("got calls %q, want the locks not fetched again", calls)
	}
}

// A file of locks that cannot be used is reported and replaced by what the next proxy sends. A logout removes
// it. A folder that cannot be written costs nothing while there are no locks.
func TestTheFileOfMachineLocks(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	tc.addNode("web-2")
	locked := tc.signLocks(stolen(node.id))
	for name, content := range map[string]string{
		"damaged":          "???",
		"of a newer tsh":   `{"v":2,"document":{"payload":"","sig":""}}`,
		"not signed":       `{"v":1,"document":{"payload":"e30=","sig":"AAAA"}}`,
		"with a new field": `{"v":1,"critical":["later"],"document":{"payload":"e30=","sig":"AAAA"}}`,
	} {
		tc.publish(locked, nil)
		c := tc.loggedIn()
		if err := os.WriteFile(c.locksFile(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		const says = "tsh: the locks of machines in the profile cannot be used: "
		if r := c.run("ssh", "web-2", "true"); r.code != 0 || !strings.Contains(r.stderr, says) {
			t.Errorf("%s: got %+v, want a session and a line about the file", name, r)
		}
		tc.publish(nil, locked)
		c.ok("ssh", "web-2", "true") // brings them again
		r := c.run("ssh", "web-1", "true")
		if r.code != 255 || strings.Contains(r.stderr, says) {
			t.Errorf("%s: got %+v, want the node refused, and no line about the file", name, r)
		}
		c.ok("logout")
		if _, err := os.Stat(c.locksFile()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: got %v after the logout, want no file", name, err)
		}
	}
}

// What the auth service sends with a login takes the place of what tsh had, also if its revision is older,
// as after a restore from a backup.
func TestALoginReplacesTheMachineLocks(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	older := tc.signLocks()
	newer := tc.signLocks(stolen(node.id))
	tc.publish(newer, nil)
	c := tc.loggedIn()
	c.refused(255, []string{"ssh", "web-1", "true"}, "node web-1 may not be used")
	tc.publish(older, nil)
	c.mustLogIn()
	c.ok("ssh", "web-1", "true")
}

// For OpenSSH, which verifies the node itself, tsh refuses a locked node before ssh gets its certificate.
// What other nodes send is passed on unchanged.
func TestProxySSHRefusesALockedNode(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	tc.addNode("web-2")
	tc.publish(tc.signLocks(stolen(node.id)), nil)
	c := tc.loggedIn()
	if err := c.openSSH("web-2"); err != nil {
		t.Errorf("got %v, want a connection to the node that is not locked", err)
	}
	var hostKeySeen bool
	err := c.openSSHWith("web-1", func(string, net.Addr, ssh.PublicKey) error {
		hostKeySeen = true
		return nil
	})
	var refused *tshError
	if !errors.As(err, &refused) || hostKeySeen {
		t.Fatalf("got %v, host key seen %v; want tsh to refuse the node before that", err, hostKeySeen)
	}
	c.wantRefusal(refused.result, "proxy ssh", 255, "node web-1 may not be used", "the machine was stolen")
}

// tshError is the result of a "tsh proxy ssh" that failed.
type tshError struct{ result }

func (e *tshError) Error() string { return e.stderr }

// openSSH connects to a node as OpenSSH does with the configuration of tsh: through "tsh proxy ssh".
func (c *client) openSSH(node string) error { return c.openSSHWith(node, ssh.InsecureIgnoreHostKey()) }

func (c *client) openSSHWith(node string, checkHost ssh.HostKeyCallback) error {
	c.t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	inputs, output := io.Pipe()
	defer inputs.Close()
	go func() { _, _ = io.Copy(output, far); _ = output.Close() }()
	go func() {
		code := c.runPipe(inputs, far, &stderr, "proxy", "ssh", node)
		_ = far.Close()
		ended <- code
	}()
	signer := c.tc.UserSigner(c.tc.User("alice@example.com", "ops"), nil, "alice")
	conn, chans, reqs, err := ssh.NewClientConn(near, node, &ssh.ClientConfig{
		User:            "alice",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: checkHost,
	})
	if err == nil {
		client := ssh.NewClient(conn, chans, reqs)
		var session *ssh.Session
		if session, err = client.NewSession(); err == nil {
			err = session.Run("true")
		}
		_ = client.Close()
	}
	_ = near.Close()
	if code := <-ended; err != nil && code != 0 {
		return &tshError{result{code: code, stderr: stderr.String()}}
	}
	return err
}
