package sshd_test

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/sshd"
)

// newDeniedFixture starts a server whose denials come on the channel.
func newDeniedFixture(t *testing.T, change func(*sshd.Config)) (*fixture, <-chan []open.Denial) {
	t.Helper()
	denied := make(chan []open.Denial, 10)
	f := newFixture(t, func(c *sshd.Config) {
		c.Denied = func(d []open.Denial) { denied <- d }
		if change != nil {
			change(c)
		}
	})
	return f, denied
}

// changeTrust puts a copy of the rules in force that change has changed, under the next head.
func (f *fixture) changeTrust(change func(*rules.Trust)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := *f.trust
	next.Head.Docs = maps.Clone(next.Head.Docs)
	next.Head.Sequence.Counter++
	change(&next)
	f.trust = &next
	close(f.newRules)
	f.newRules = make(chan struct{})
}

// openEverything opens one of each on the connection, and keeps it open until the test ends.
func openEverything(t *testing.T, f *fixture, c *ssh.Client) {
	t.Helper()
	keyring := agent.NewKeyring()
	if err := agent.ForwardToAgent(c, keyring); err != nil {
		t.Fatal(err)
	}
	withAgent := newSession(t, c)
	if err := agent.RequestAgentForwarding(withAgent); err != nil {
		t.Fatal(err)
	}
	in, _ := withAgent.StdinPipe()
	out, _ := withAgent.StdoutPipe()
	t.Cleanup(func() { in.Close() })
	startProgram(t, withAgent, `echo "$SSH_AUTH_SOCK"; cat`)
	var path string
	if _, err := fmt.Fscanln(out, &path); err != nil {
		t.Fatal(err)
	}
	toAgent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { toAgent.Close() })
	if _, err := agent.NewClient(toAgent).List(); err != nil {
		t.Fatal(err)
	}
	shell, files := newSession(t, c), newSession(t, c)
	shellIn, _ := shell.StdinPipe()
	t.Cleanup(func() { shellIn.Close() })
	if err := shell.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := files.RequestSubsystem("sftp"); err != nil {
		t.Fatal(err)
	}
	direct, err := c.Dial("tcp", startEcho(t, "tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { direct.Close() })
	opens := channelOpens(t, c, "forwarded-tcpip")
	port, err := listenTCP(c, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	toListener, err := net.Dial("tcp", loopbackFor("", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { toListener.Close() })
	_, requests, err := receive(t, "the channel of the connection to the listener", opens).Accept()
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
}

// deniedActions returns how much was denied of each action.
func deniedActions(denials []open.Denial) map[access.Action]int {
	out := map[access.Action]int{}
	for _, d := range denials {
		out[d.Use.Action] += len(d.Holders)
	}
	return out
}

// Everything that is open is decided again at each change of the rules, by the action it was opened with. A
// change that allows it reports nothing. What has ended is forgotten.
func TestEverythingOpenIsDecidedAgain(t *testing.T) {
	t.Parallel()
	f, denied := newDeniedFixture(t, nil)
	c := f.client()
	openEverything(t, f, c)
	f.allow(fullRole("ops"))
	f.allow(fullRole("ops", "exec", "shell"))
	some := receive(t, "what is denied", denied)
	want := map[access.Action]int{
		access.SFTP:          1,
		access.ForwardLocal:  1,
		access.ForwardRemote: 2, // the listener, and the connection to it
		access.ForwardAgent:  2,
	}
	if got := deniedActions(some); !maps.Equal(got, want) {
		t.Errorf("got %v denied without these actions, want %v", got, want)
	}
	d, login := some[0], identity.Login(testAccount())
	if d.User.Name != "alice@example.com" || d.User.Serial == 0 || d.Use.Login != login ||
		d.Use.Node != f.member.Identity().ID || d.Use.Proxy != proxyID || !d.Use.From.IsLoopback() ||
		!fault.Is(d.Reason, fault.Denied) || fault.Remedy(d.Reason) == "" {
		t.Errorf("got %+v, want who, as whom, where, from where and why", d)
	}
	f.allow()
	rest := map[access.Action]int{"": 1, access.Shell: 1, access.Exec: 1}
	if got := deniedActions(receive(t, "what is denied", denied)); !maps.Equal(got, rest) {
		t.Errorf("got %v denied without any role, want the rest: %v", got, rest)
	}
	c.Close()
	f.awaitClosed(t)
	if n := f.server.OpenEntries(); n != 0 {
		t.Errorf("got %d entries after the connection has ended, want none", n)
	}
}

// What ends before its connection, and what is refused, is forgotten at once.
func TestWhatHasEndedIsForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops", "exec", "forward-local", "forward-remote"))
	c := f.client()
	wantOpen := func(what string, n int) {
		t.Helper()
		what = fmt.Sprintf("%d entries, %s", n, what)
		eventually(t, what, func() bool { return f.server.OpenEntries() == n })
	}
	wantOpen("with a connection", 1)
	run(t, c, "true", "")
	wantOpen("after a program", 1)
	if err := newSession(t, c).Shell(); err != nil {
		t.Fatal(err) // it is refused by its exit status
	}
	if err := newSession(t, c).RequestSubsystem("sftp"); err == nil {
		t.Error("got sftp without the grant")
	}
	if err := newSession(t, c).RequestSubsystem("nosuch"); err == nil {
		t.Error("got a subsystem that does not exist")
	}
	if _, err := c.Dial("tcp", "169.254.169.254:80"); err == nil {
		t.Error("got a connection to a metadata address")
	}
	wantOpen("after refusals", 1)
	port, err := listenTCP(c, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	wantOpen("with a listener", 2)
	if _, err := listenTCP(c, "127.0.0.1", port); err == nil {
		t.Error("got two listeners on one port")
	}
	wantOpen("after a second one was refused", 2)
	if ok, _, _ := c.SendRequest("cancel-tcpip-forward", true, encode("127.0.0.1", port)); !ok {
		t.Error("the listener could not be cancelled")
	}
	wantOpen("after the listener", 1)
	direct, err := c.Dial("tcp", startEcho(t, "tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	wantOpen("with a forwarded connection", 2)
	direct.Close()
	wantOpen("after the forwarded connection", 1)
}

// A lock denies what its user has open, and nothing of others, who go on.
func TestALockDeniesWhatItsUserHasOpen(t *testing.T) {
	t.Parallel()
	f, denied := newDeniedFixture(t, nil)
	bob := f.cluster.User("bob@example.com", "ops")
	alices, bobs := f.client(), f.client(f.cluster.UserSigner(bob, nil, testAccount()))
	for _, c := range []*ssh.Client{alices, bobs} {
		s := newSession(t, c)
		in, _ := s.StdinPipe()
		t.Cleanup(func() { in.Close() })
		startProgram(t, s, "cat")
	}
	lock := access.Lock{ID: "k3", Match: access.Facts{User: access.UserFact(bob.UserKey())}}
	f.changeTrust(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks([]access.Lock{lock}) })
	got := receive(t, "what is denied", denied)
	for _, d := range got {
		if d.User.Name != bob.Name || !strings.Contains(fault.Message(d.Reason), "lock k3") {
			t.Errorf("got %+v denied, want bob alone, by the lock", d)
		}
	}
	if want := map[access.Action]int{"": 1, access.Exec: 1}; !maps.Equal(deniedActions(got), want) {
		t.Errorf("got %v, want %v", deniedActions(got), want)
	}
	if r := run(t, alices, "echo on", ""); r.out != "on\n" {
		t.Errorf("got %+v, want alice to go on", r)
	}
	for id, denies := range map[identity.MachineID]bool{otherProxyID: false, proxyID: true} {
		lock := access.Lock{ID: "k4", Match: access.Facts{ViaProxy: id}}
		f.changeTrust(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks([]access.Lock{lock}) })
		s, err := alices.NewSession()
		if (err != nil) != denies {
			t.Errorf("got %v under a lock of the proxy %s, want denied %v", err, id, denies)
		}
		if err == nil {
			s.Close()
		}
	}
}

const otherProxyID identity.MachineID = "ffffffffffffffffffffffffffffffff"

// What is open ends with its certificate, unless each of the user's roles says that it may go on. It never
// outlives the authority that signed the certificate, nor the rules.
func TestWhatEndsWhatIsOpen(t *testing.T) {
	t.Parallel()
	endsWith := roleWithOptions(access.Options{EndWithCertificate: access.Set(true)})
	outlives := roleWithOptions(access.Options{EndWithCertificate: access.Set(false)})
	for _, tt := range []struct {
		name    string
		later   time.Duration // how far the clock is ahead when the rules change
		role    access.Role
		change  func(*rules.Trust)
		kind    fault.Kind // of the denial; empty: none
		message string
	}{
		{name: "nothing", role: fullRole("ops")},
		{name: "the end of the certificate, which may pass", later: 10 * time.Hour, role: outlives},
		{"the end of the certificate by default", 10 * time.Hour, fullRole("ops"), nil, fault.Expired, "expired"},
		{"the end of the certificate", 10 * time.Hour, endsWith, nil, fault.Expired, "expired"},
		{"before the end of the certificate", 0, endsWith, nil, "", ""},
		{"rules that are too old", 25 * time.Hour, fullRole("ops"), nil, fault.Unavailable, "old"},
		{"the authority is withdrawn", 0, fullRole("ops"), func(next *rules.Trust) {
			ref := next.Head.Docs[rules.AuthoritiesKind]
			ref.Revision.Index++
			next.Head.Docs[rules.AuthoritiesKind] = ref
			next.Authorities.UserSSH = nil
		}, fault.Denied, "authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var ahead atomic.Int64
			f, denied := newDeniedFixture(t, func(c *sshd.Config) {
				c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			})
			c := f.client()
			ahead.Store(int64(tt.later))
			f.cluster.SetRoles(tt.role)
			f.setRules(f.cluster.SignRules())
			f.changeTrust(func(next *rules.Trust) {
				if tt.change != nil {
					tt.change(next)
				}
			})
			if tt.kind == "" { // nothing else is reported before what denies everything
				grantless := tt.role
				grantless.Allow = nil
				f.allow(grantless)
				tt.kind, tt.message = fault.Denied, "no role"
			}
			if s, err := c.NewSession(); err == nil {
				s.Close()
				t.Error("got a new session, want it refused")
			}
			got := receive(t, "what is denied", denied)
			if len(got) != 1 || !fault.Is(got[0].Reason, tt.kind) ||
				!strings.Contains(fault.Message(got[0].Reason), tt.message) {
				t.Errorf("got %+v, want it denied by %s, with %q", got, tt.kind, tt.message)
			}
		})
	}
}

// By default a denial is logged, with who it is about.
func TestADenialIsLogged(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.client()
	f.allow()
	f.awaitLog(t, "no longer allowed")
	line := f.logged()
	for _, want := range []string{"user=alice@example.com", "connector=", "serial=", "login=" + testAccount(),
		"no role of alice@example.com"} {
		if !strings.Contains(line, want) {
			t.Errorf("got %s, want %s in it", line, want)
		}
	}
	if n := f.server.OpenEntries(); n != 1 {
		t.Errorf("got %d entries, want the connection to go on", n)
	}
}
