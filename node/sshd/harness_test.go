package sshd_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/sshd"
)

func TestMain(m *testing.M) {
	if code, ok := process.RunHelper(); ok {
		os.Exit(code)
	}
	if code, ok := asaccount.RunHelper(); ok {
		os.Exit(code)
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("8") // these tests spend most of their time in grace periods and limits
	}
	goleak.VerifyTestMain(m)
}

// testAccount is the account that tests run as.
func testAccount() string {
	u, err := user.Current()
	if err != nil {
		panic(err)
	}
	return u.Username
}

// fullRole is a role with these actions, or all there are, as the account of the tests.
func fullRole(name string, actions ...string) access.Role {
	if len(actions) == 0 {
		actions = []string{"shell", "exec", "sftp", "forward-local", "forward-remote", "forward-agent"}
	}
	return access.Role{
		Name: name,
		Allow: []access.Grant{{
			Nodes:   map[string]access.Strings{"*": {"*"}},
			Logins:  access.Strings{testAccount()},
			Actions: actions,
		}},
	}
}

// fixture is a server in a cluster of its own, with a listener for its clients. It is the server's log.
type fixture struct {
	t       testing.TB
	cluster *clustertest.Cluster
	member  *member.Member
	addr    string
	cfg     sshd.Config
	cancel  context.CancelFunc
	server  *sshd.Server

	mu       sync.Mutex // guards the fields below
	trust    *rules.Trust
	newRules chan struct{} // closed when trust changes, and replaced
	events   []audit.Event
	changed  chan struct{} // closed and replaced by signal
	auditErr error         // what auditing fails with
	open     int           // connections that the server serves
	log      bytes.Buffer
	features wire.Features // of clients that connect from now on
}

func (f *fixture) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signal()
	return f.log.Write(b)
}

func (f *fixture) logged() string { f.mu.Lock(); defer f.mu.Unlock(); return f.log.String() }

func (f *fixture) record(e audit.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.auditErr != nil {
		return f.auditErr
	}
	e.ID = strings.Repeat("0", 32)
	if err := e.Check(); err != nil {
		f.t.Errorf("event: %v", err)
	}
	f.events = append(f.events, e)
	f.signal()
	return nil
}

// signal says that a field that mu guards has changed. It is called with mu held.
func (f *fixture) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until ok, which is asked again after each event, each line of the log, and each end of a
// connection.
func (f *fixture) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not so after 10 s", what)
		}
	}
}

// awaitLog waits for a line of the log that contains text.
func (f *fixture) awaitLog(t testing.TB, text string) {
	t.Helper()
	f.await(t, text+" in the log", func() bool { return strings.Contains(f.logged(), text) })
}

// awaitClosed waits until Serve has returned for each connection: nothing may be left of them then.
func (f *fixture) awaitClosed(t testing.TB) {
	t.Helper()
	f.await(t, "the end of every connection", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.open == 0
	})
}

// addOpen adds n to the number of connections that the server serves.
func (f *fixture) addOpen(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open += n
	f.signal()
}

// awaitEnd waits for the first event of a session's end, and returns it.
func (f *fixture) awaitEnd(t testing.TB) audit.Event {
	t.Helper()
	f.await(t, "the end of a session in the audit log", func() bool {
		return len(f.recorded(audit.SessionEnded)) > 0
	})
	return f.recorded(audit.SessionEnded)[0]
}

// bodyOf returns the body of an event.
func bodyOf[B audit.Body](t testing.TB, e audit.Event) B {
	t.Helper()
	body, err := audit.BodyOf[B](e)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// hasStatus reports whether a session ended with the exit status.
func hasStatus(end audit.SessionEnd, want int) bool { return end.Status != nil && *end.Status == want }

// failAudit makes auditing fail with err, or work again if err is nil.
func (f *fixture) failAudit(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.auditErr = err
}

// recorded returns the events of a code.
func (f *fixture) recorded(code audit.Code) []audit.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []audit.Event
	for _, e := range f.events {
		if e.Code == code {
			out = append(out, e)
		}
	}
	return out
}

// allow puts roles in force.
func (f *fixture) allow(roles ...access.Role) {
	f.cluster.SetRoles(roles...)
	f.setRules(f.cluster.SignRules())
}

func (f *fixture) setRules(set rules.Set) {
	f.t.Helper()
	trust, err := rules.Open(f.cluster.Pin(), set)
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trust = trust
	close(f.newRules)
	f.newRules = make(chan struct{})
}

// Current returns the rules in force.
func (f *fixture) Current() *rules.Trust { f.mu.Lock(); defer f.mu.Unlock(); return f.trust }

// Changed returns a channel that is closed by the next setRules.
func (f *fixture) Changed() <-chan struct{} { f.mu.Lock(); defer f.mu.Unlock(); return f.newRules }

// accountsWithTempHome has the account of the tests with a temporary home: in the real one, a shell might
// find something to run.
func accountsWithTempHome(t testing.TB) account.Database {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	a := account.Local()
	a.Root = t.TempDir()
	etc := filepath.Join(a.Root, "etc")
	passwd := fmt.Sprintf("%s:x:%s:%s::%s:/bin/bash\n", u.Username, u.Uid, u.Gid, t.TempDir())
	err = errors.Join(
		os.Mkdir(etc, 0o755),
		os.WriteFile(filepath.Join(etc, "group"), nil, 0o600),
		os.WriteFile(filepath.Join(etc, "passwd"), []byte(passwd), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// home is where sessions start.
func (f *fixture) home() string {
	f.t.Helper()
	acc, err := f.cfg.Accounts.Find(identity.Login(testAccount()))
	if err != nil {
		f.t.Fatal(err)
	}
	return acc.Home
}

// newFixture starts a server that ends with the test. change may change its configuration before.
func newFixture(t testing.TB, change func(*sshd.Config)) *fixture {
	t.Helper()
	c := clustertest.NewInMemory(t)
	m, err := member.LoadOrJoin(t.Context(), member.Config{
		Dir:      filepath.Join(t.TempDir(), "data"),
		Kind:     identity.Node,
		AuthAddr: c.Addr(),
		Dialer:   c.Dialer(),
		Token:    c.Token(identity.Node),
		Name:     "web-1",
		Labels:   identity.Labels{"env": "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, cluster: c, member: m, changed: make(chan struct{}), newRules: make(chan struct{})}
	f.allow(fullRole("ops"))
	f.cfg = sshd.Config{
		Identity:   m.Identity,
		HostSigner: m.HostSigner,
		Audit:      f.record,
		Accounts:   accountsWithTempHome(t),
		Now:        time.Now,
		Rules:      f,
		Log:        slog.New(slog.NewTextHandler(f, nil)),
	}
	if change != nil {
		change(&f.cfg)
	}
	f.serve()
	return f
}

// serve starts a server with the configuration of now. Clients reach it from now on.
func (f *fixture) serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	server := sshd.New(f.cfg)
	f.server = server
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	var all sync.WaitGroup
	all.Go(func() { _ = server.Run(ctx) })
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			origin := sshd.Origin{
				From:       netip.MustParseAddrPort(conn.RemoteAddr().String()),
				Proxy:      "proxy-1",
				Protocol:   "dial",
				ProxyID:    proxyID,
				Connection: connectionID,
				Features:   f.clientFeatures(),
			}
			f.addOpen(1)
			all.Go(func() {
				defer f.addOpen(-1)
				server.Serve(ctx, conn, origin)
			})
		}
	})
	f.t.Cleanup(func() { cancel(); ln.Close(); all.Wait() })
}

// What the proxy says of itself and of each connection.
const (
	proxyID      = identity.MachineID("ffeeddccbbaa99887766554433221100")
	connectionID = identity.ConnectionID("0123456789abcdef0123456789abcdef")
)

// signer is a certificate for this account.
func (f *fixture) signer(roles ...string) ssh.Signer {
	if len(roles) == 0 {
		roles = []string{"ops"}
	}
	return f.cluster.UserSigner(f.cluster.User("alice@example.com", roles...), nil, testAccount())
}

// client logs in, or fails the test.
func (f *fixture) client(signers ...ssh.Signer) *ssh.Client {
	f.t.Helper()
	if len(signers) == 0 {
		signers = []ssh.Signer{f.signer()}
	}
	c, banner, err := f.dial(testAccount(), signers...)
	if err != nil {
		f.t.Fatalf("log in: %v (banner %q)", err, banner)
	}
	return c
}

// clientFeatures is what clients that connect now say that they understand.
func (f *fixture) clientFeatures() wire.Features {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.features
}

// connectAs makes further clients say that they understand features.
func (f *fixture) connectAs(features wire.Features) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.features = features
}

// connect logs in as a client with the features, and leaves channels and requests of the node to the caller.
func (f *fixture) connect(features wire.Features) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request) {
	f.t.Helper()
	f.connectAs(features)
	raw, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	conn, opens, requests, err := ssh.NewClientConn(raw, "web-1", &ssh.ClientConfig{
		User:            testAccount(),
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(f.signer())},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return conn, opens, requests
}

// dial logs in with certificates or keys. banner is all that the server said.
func (f *fixture) dial(login string, signers ...ssh.Signer) (c *ssh.Client, banner string, err error) {
	return f.dialWith(login, ssh.PublicKeys(signers...))
}

func (f *fixture) dialWith(login string, auth ...ssh.AuthMethod) (c *ssh.Client, banner string, err error) {
	var text strings.Builder
	authorities := []ssh.PublicKey{f.cluster.HostAuthority()}
	cfg := &ssh.ClientConfig{
		User:           login,
		Auth:           auth,
		Timeout:        10 * time.Second,
		BannerCallback: func(m string) error { text.WriteString(m); return nil },
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			return identity.VerifySSHHost(key, "web-1", authorities, time.Now())
		},
	}
	c, err = ssh.Dial("tcp", f.addr, cfg)
	if err == nil {
		f.t.Cleanup(func() { c.Close() })
	}
	return c, text.String(), err
}

// result is how a command ended.
type result struct {
	out, err string
	status   int
	signal   string
}

// run runs one command in a session of its own.
func run(t testing.TB, c *ssh.Client, command string, stdin string) result {
	t.Helper()
	s := newSession(t, c)
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr, s.Stdin = &out, &errs, strings.NewReader(stdin)
	return resultOf(t, s.Run(command), &out, &errs)
}

// resultOf is the result of a program that ended with err.
func resultOf(t testing.TB, err error, out, errs fmt.Stringer) result {
	t.Helper()
	r := result{out: out.String(), err: errs.String()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		r.status, r.signal = exit.ExitStatus(), exit.Signal()
	case err != nil:
		t.Fatalf("run: %v", err)
	}
	return r
}

func newSession(t testing.TB, c *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatalf("open session: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// receive waits for a value. It fails the test if none comes.
func receive[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing came for 10 s", what)
	}
	return v
}

// eventually polls. It is only for facts of the operating system, which nothing announces: that init has
// reaped a process, or that goroutines outside the server have closed their descriptors.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not so after 10 s", what)
		}
	}
}

// execPayload is the payload of an exec request.
func execPayload(command string) []byte { return ssh.Marshal(struct{ Command string }{command}) }

// startProgram starts a command in a session.
func startProgram(t testing.TB, s *ssh.Session, command string) {
	t.Helper()
	if err := s.Start(command); err != nil {
		t.Fatal(err)
	}
}

// requestTerminal requests a terminal of 80 columns and 24 lines for a session.
func requestTerminal(t testing.TB, s *ssh.Session, term string) {
	t.Helper()
	if err := s.RequestPty(term, 24, 80, nil); err != nil {
		t.Fatal(err)
	}
}
