package sshd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/sshd"
)

func TestMain(m *testing.M) {
	if code, is := process.RunHelper(); is {
		os.Exit(code)
	}
	if code, is := asaccount.RunHelper(); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// testAccount is the account that tests run as.
func testAccount() string {
	u, err := user.Current()
	if err != nil {
		panic(err)
	}
	return u.Username
}

// fullRole lets the role's holders do all there is, as this account.
func fullRole(name string, actions ...string) access.Role {
	if len(actions) == 0 {
		actions = []string{"shell", "exec", "sftp", "forward-local", "forward-remote", "forward-agent"}
	}
	return access.Role{
		Name: name,
		Allow: []access.Grant{
			{
				Nodes:   map[string]access.Strings{"*": {"*"}},
				Logins:  access.Strings{testAccount()},
				Actions: actions,
			},
		},
	}
}

// fixture is a server with what it needs, and a listener for its clients.
type fixture struct {
	t       testing.TB
	cluster *membertest.Cluster
	member  *member.Member
	addr    string
	cfg     sshd.Config
	cancel  context.CancelFunc
	server  *sshd.Server

	mu       sync.Mutex // guards what follows
	trust    *rules.Trust
	events   []audit.Event
	auditErr error // what recording fails with
	log      bytes.Buffer
}

func (r *fixture) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *fixture) logged() string { r.mu.Lock(); defer r.mu.Unlock(); return r.log.String() }

func (r *fixture) record(e audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auditErr != nil {
		return r.auditErr
	}
	e.ID = strings.Repeat("0", 32)
	if err := e.Check(); err != nil {
		r.t.Errorf("event: %v", err)
	}
	r.events = append(r.events, e)
	return nil
}

func (r *fixture) recorded(code audit.Code) []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Event
	for _, e := range r.events {
		if e.Code == code {
			out = append(out, e)
		}
	}
	return out
}

// allow puts roles in force.
func (r *fixture) allow(roles ...access.Role) {
	r.cluster.SetRoles(roles...)
	r.setRules(r.cluster.SignRules())
}

func (r *fixture) setRules(set rules.Set) {
	r.t.Helper()
	trust, err := rules.Open(r.cluster.Pin(), set)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.trust = trust
	r.mu.Unlock()
}

// accountsWithTempHome is this account with a home of the test's own: what people have in theirs, shells run
// and tests would wait for.
func accountsWithTempHome(t testing.TB) account.Database {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	a := account.Local()
	a.Root = t.TempDir()
	etc := filepath.Join(a.Root, "etc")
	if err := errors.Join(os.Mkdir(etc, 0o755), os.WriteFile(filepath.Join(etc, "group"), nil, 0o600),
		os.WriteFile(filepath.Join(etc, "passwd"), []byte(fmt.Sprintf("%s:x:%s:%s::%s:/bin/bash\n", u.Username, u.Uid, u.Gid, t.TempDir())), 0o600)); err != nil {
		t.Fatal(err)
	}
	return a
}

// home is where sessions start.
func (r *fixture) home() string {
	r.t.Helper()
	acc, err := r.cfg.Accounts.Find(identity.Login(testAccount()))
	if err != nil {
		r.t.Fatal(err)
	}
	return acc.Home
}

func newFixture(t testing.TB, change func(*sshd.Config)) *fixture {
	t.Helper()
	c := membertest.New(t)
	m, err := member.LoadOrJoin(
		t.Context(),
		member.Config{
			Dir:      filepath.Join(t.TempDir(), "data"),
			Kind:     identity.Node,
			AuthAddr: c.Addr(),
			Token:    c.Token(identity.Node),
			Name:     "web-1",
			Labels:   identity.Labels{"env": "test"},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	r := &fixture{t: t, cluster: c, member: m}
	r.allow(fullRole("ops"))
	r.cfg = sshd.Config{
		Identity:   m.Identity,
		HostSigner: m.HostSigner,
		Audit:      r.record,
		Accounts:   accountsWithTempHome(t),
		Now:        time.Now,
		Rules:      func() *rules.Trust { r.mu.Lock(); defer r.mu.Unlock(); return r.trust },
		Log:        slog.New(slog.NewTextHandler(r, nil)),
	}
	if change != nil {
		change(&r.cfg)
	}
	r.serve()
	return r
}

func (r *fixture) serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	server := sshd.New(r.cfg)
	r.server = server
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				server.Serve(
					ctx,
					conn,
					sshd.Origin{From: conn.RemoteAddr().String(), Proxy: "proxy-1", Protocol: "dial"},
				)
			})
		}
	})
	r.t.Cleanup(func() { cancel(); ln.Close(); all.Wait() })
}

// signer is a certificate for this account.
func (r *fixture) signer(roles ...string) ssh.Signer {
	if len(roles) == 0 {
		roles = []string{"ops"}
	}
	return r.cluster.UserSigner(r.cluster.User("alice@example.com", roles...), nil, testAccount())
}

// client logs in, or fails the test.
func (r *fixture) client(signers ...ssh.Signer) *ssh.Client {
	r.t.Helper()
	if len(signers) == 0 {
		signers = []ssh.Signer{r.signer()}
	}
	c, banner, err := r.dial(testAccount(), signers...)
	if err != nil {
		r.t.Fatalf("log in: %v (banner %q)", err, banner)
	}
	return c
}

func (r *fixture) dial(login string, signers ...ssh.Signer) (c *ssh.Client, banner string, err error) {
	return r.dialWith(login, ssh.PublicKeys(signers...))
}

func (r *fixture) dialWith(login string, auth ...ssh.AuthMethod) (c *ssh.Client, banner string, err error) {
	var text strings.Builder
	cfg := &ssh.ClientConfig{User: login, Auth: auth, Timeout: 10 * time.Second,
		BannerCallback: func(m string) error { text.WriteString(m); return nil },
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			return identity.VerifySSHHost(
				key,
				"web-1",
				[]ssh.PublicKey{r.cluster.HostAuthority()},
				time.Now(),
			)
		}}
	c, err = ssh.Dial("tcp", r.addr, cfg)
	if err == nil {
		r.t.Cleanup(func() { c.Close() })
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

// receive fails the test when what it waits for does not come.
func receive[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing came for 10 s", what)
	}
	return v
}

// eventually polls, for facts of the operating system that nothing announces.
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
