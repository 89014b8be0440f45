package tsh_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/tsh"
)

const clusterName = "demo.example.com"

// testCluster is a cluster as tsh meets it: one port that answers pings, passes auth through, and dials
// nodes. Auth and the nodes are small ones of this test's own; certificates and signed authorities are the
// product's.
type testCluster struct {
	t     testing.TB
	keys  *keyring.Keyring
	ca    *ca.CA
	addr  string
	chain []rules.Signed
	clock func() time.Time // of auth

	mu              sync.Mutex // guards what follows
	logins          []identity.Login
	nodes           []authrpc.NodeInfo
	hosts           map[string]*host // by whole name
	calls           []string         // routes asked of auth, and dials
	pingPin         identity.Pin     // what ping says
	docs            map[string]authrpc.Resource
	headlessAnswers []string // what a person did about headless logins: "approve", "refuse" or "wait", one for each question
	certifyKey      []byte   // not nil: redeem certifies this SSH key in place of the asked one
}

// host is a node's SSH server.
type host struct {
	cert      ssh.Signer
	refuse    string // not empty: nobody is let in, and this banner says why
	command   func(cmd string, ch ssh.Channel) ssh.Signal
	status    uint32
	root      string // sftp starts here
	events    chan string
	endNotice string               // not empty: it ends every connection at once, and says why
	version   string               // of its SSH server; empty: one that reads no openings
	forward   func(ssh.NewChannel) // serves channels that are no sessions; nil: there are none
	request   func(*ssh.Request)   // serves global requests; nil: refuses them
}

func (w *testCluster) RecordIssuance(context.Context, ca.Record) error { return nil }

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	now := time.Now()
	w := &testCluster{
		t:      t,
		keys:   keyringtest.New(t, clusterName, now),
		clock:  time.Now,
		hosts:  map[string]*host{},
		logins: []identity.Login{"alice"},
		docs:   map[string]authrpc.Resource{},
	}
	var err error
	if w.ca, err = ca.New(ca.Config{Cluster: clusterName, Keys: w.keys, Recorder: w}); err != nil {
		t.Fatal(err)
	}
	w.pingPin = w.keys.Pin()
	w.chain = []rules.Signed{w.authorities()}
	w.listen()
	return w
}

func (w *testCluster) authorities() rules.Signed {
	w.t.Helper()
	pub := w.keys.Public()
	body := rules.Authorities{Root: pub.Root.Raw}
	for _, k := range pub.UserSSH {
		body.UserSSH = append(body.UserSSH, k.Marshal())
	}
	for _, k := range pub.HostSSH {
		body.HostSSH = append(body.HostSSH, k.Marshal())
	}
	for _, c := range pub.UserX509 {
		body.UserX509 = append(body.UserX509, c.Raw)
	}
	for _, c := range pub.ServiceX509 {
		body.ServiceX509 = append(body.ServiceX509, c.Raw)
	}
	for _, k := range pub.Rules {
		body.Rules = append(body.Rules, k)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := w.keys.RootSigner()
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := rules.SignDocument(
		root,
		rules.Document{
			Kind:     rules.AuthoritiesKind,
			Cluster:  clusterName,
			Revision: rules.Revision{Epoch: 1, Index: 1},
			Time:     time.Now(),
			Body:     raw,
		},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *testCluster) service(kind identity.Kind) tls.Certificate {
	w.t.Helper()
	key := newKey(w.t)
	out, err := w.ca.Issue(
		w.t.Context(),
		ca.Request{Profile: ca.Service, X509Key: key.Public(), Names: []string{"127.0.0.1"},
			Identity: identity.Identity{
				Kind:    kind,
				Cluster: clusterName,
				Name:    string(kind) + "-1",
				ID:      "0123456789abcdef0123456789abcdef",
			}},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range out.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// caFile is the authority of the web certificate.
func (w *testCluster) caFile() string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "ca.pem")
	body := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.keys.Root().Raw})
	if err := os.WriteFile(path, body, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *testCluster) listen() {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = l.Addr().String()
	users := x509.NewCertPool()
	for _, c := range w.keys.Public().UserX509 {
		users.AddCert(c)
	}
	proxy, auth := w.service(identity.Proxy), w.service(identity.Auth)
	cfg := &tls.Config{
		ClientCAs: users,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c := &tls.Config{
				Certificates: []tls.Certificate{proxy},
				ClientCAs:    users,
				MinVersion:   tls.VersionTLS13,
				NextProtos:   []string{"http/1.1"},
			}
			switch strings.Join(h.SupportedProtos, " ") {
			case identity.ALPNAuth:
				c.Certificates, c.ClientAuth, c.NextProtos = []tls.Certificate{
					auth,
				}, tls.VerifyClientCertIfGiven, h.SupportedProtos
			case identity.ALPNDial:
				c.ClientAuth, c.NextProtos = tls.RequireAndVerifyClientCert, h.SupportedProtos
			}
			return c, nil
		},
	}
	srv := &http.Server{
		Handler:   w.web(),
		TLSConfig: cfg,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			identity.ALPNAuth: func(_ *http.Server, c *tls.Conn, _ http.Handler) { serveOne(c, w.auth()) },
			identity.ALPNDial: func(_ *http.Server, c *tls.Conn, _ http.Handler) { w.serveDial(c) },
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
	w.t.Cleanup(func() { _ = srv.Close(); <-done })
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// serveOne serves HTTP on a connection whose ALPN net/http does not know, so it must not see that it is TLS.
func serveOne(c *tls.Conn, h http.Handler) {
	l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- struct{ net.Conn }{c}
	state := c.ConnectionState()
	srv := &http.Server{ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(l.done)
		}
	}, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.TLS = &state
		h.ServeHTTP(rw, r)
	})}
	_ = srv.Serve(l)
}

func (w *testCluster) web() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+dial.PingPath, func(rw http.ResponseWriter, _ *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		_ = json.NewEncoder(rw).Encode(dial.Ping{V: 1, Cluster: clusterName, Pin: w.pingPin, Time: w.clock()})
	})
	return mux
}

func (w *testCluster) recordCall(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, what)
}

// takeCalls returns and forgets what was asked.
func (w *testCluster) takeCalls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.calls
	w.calls = nil
	return out
}

func (w *testCluster) auth() http.Handler {
	s := authrpc.NewServer(func(r *http.Request) (authrpc.Caller, error) {
		w.recordCall(r.URL.Path)
		if len(r.TLS.PeerCertificates) == 0 {
			return authrpc.Caller{}, nil
		}
		roots := x509.NewCertPool()
		for _, c := range w.keys.Public().UserX509 {
			roots.AddCert(c)
		}
		p, err := identity.VerifyX509(
			r.TLS.PeerCertificates,
			clusterName,
			roots,
			x509.ExtKeyUsageClientAuth,
			time.Now(),
			identity.User,
		)
		return authrpc.Caller{Identity: p.Identity}, err
	}, slog.New(slog.DiscardHandler))
	authrpc.Handle(s, authrpc.RedeemLogin, w.redeem)
	authrpc.Handle(s, authrpc.BeginHeadless, w.beginHeadless)
	authrpc.Handle(s, authrpc.RedeemHeadless, w.redeemHeadless)
	authrpc.Handle(s, authrpc.ListNodes, w.list)
	authrpc.Handle(s, authrpc.GetResources, w.get)
	authrpc.Handle(s, authrpc.ApplyResource, w.apply)
	authrpc.Handle(s, authrpc.RemoveResource, w.remove)
	return s
}

func (w *testCluster) redeem(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.RedeemLoginRequest,
) (res authrpc.RedeemLoginResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	challenge, ok := strings.CutPrefix(r.Code, "good-")
	if !ok || !authrpc.ChallengeMatches(challenge, r.Verifier, r.SSHKey, r.X509Key) {
		return res, fault.New(fault.Denied, "login", "the login code is not good", "run: tsh login")
	}
	if w.certifyKey != nil {
		r.SSHKey = w.certifyKey
	}
	sshKey, err := ssh.ParsePublicKey(r.SSHKey)
	if err != nil {
		return res, err
	}
	key, err := x509.ParsePKIXPublicKey(r.X509Key)
	if err != nil {
		return res, err
	}
	req := ca.Request{
		Profile:    ca.User,
		SSHKey:     sshKey,
		X509Key:    key,
		Logins:     w.logins,
		Extensions: []string{"permit-pty"},
		TTL:        time.Hour,
		Identity: identity.Identity{
			Kind:      identity.User,
			Cluster:   clusterName,
			Name:      "alice@example.com",
			Connector: "corp",
			Subject:   "1",
			LoginID:   "l1",
			Roles:     []string{"ops"},
		},
	}
	out, err := w.ca.Issue(ctx, req)
	if err != nil {
		return res, err
	}
	res = authrpc.RedeemLoginResponse{
		Identity:    req.Identity,
		Logins:      w.logins,
		Authorities: w.chain,
		Time:        w.clock(),
	}
	for _, c := range out.Chain {
		res.X509 = append(res.X509, c.Raw)
	}
	if out.SSH != nil {
		res.SSHCert = out.SSH.Marshal()
	}
	return res, nil
}

// pageSize is small, so that every list is paged.
const pageSize = 2

func (w *testCluster) list(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.ListNodesRequest,
) (res authrpc.ListNodesResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		first, _, _ := strings.Cut(n.Name, ".")
		if r.Name != "" && r.Name != n.Name && r.Name != first && r.Name != string(n.ID) &&
			r.Name != n.Name+"."+clusterName ||
			n.Name <= r.After {
			continue
		}
		if r.Labels["env"] != "" && r.Labels["env"] != n.Labels["env"] {
			continue
		}
		if len(res.Nodes) == pageSize {
			res.Next = res.Nodes[pageSize-1].Name
			break
		}
		res.Nodes = append(res.Nodes, n)
	}
	return res, nil
}

func (w *testCluster) get(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.GetResourcesRequest,
) (res authrpc.GetResourcesResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.docs {
		if d.Kind+"s" == string(r.Kind) && (r.Name == "" || r.Name == d.Metadata.Name) {
			res.Resources = append(res.Resources, d)
		}
	}
	return res, nil
}

func (w *testCluster) apply(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.ApplyResourceRequest,
) (res authrpc.ApplyResourceResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := r.Resource
	if d.Kind == "token" {
		t := authrpc.Token{Kind: identity.Node, Pin: w.keys.Pin()}
		d.Metadata.Name = "node-1"
		res.Secret = t.String()
	}
	_, there := w.docs[d.Metadata.Name]
	d.Metadata.Revision = uint64(len(w.docs) + 1)
	w.docs[d.Metadata.Name] = d
	res.Created, res.Resource = !there, d
	return res, nil
}

func (w *testCluster) remove(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.RemoveResourceRequest,
) (res authrpc.RemoveResourceResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.docs[r.Name]; !there {
		return res, fault.New(fault.NotFound, "rm", "there is no "+r.Name, "see: tsh get "+string(r.Kind))
	}
	delete(w.docs, r.Name)
	return res, nil
}

// addNode adds a node that runs, with the names of its host certificate.
func (w *testCluster) addNode(name string) *host {
	w.t.Helper()
	h := w.newHost(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[name] = h
	w.nodes = append(
		w.nodes,
		authrpc.NodeInfo{
			ID:     identity.MachineID(strings.Repeat("0", 31) + string(rune('a'+len(w.nodes)))),
			Name:   name,
			Online: true,
			Labels: identity.Labels{"env": "prod"},
			Logins: w.logins,
		},
	)
	return h
}

func (w *testCluster) newHost(name string) *host {
	w.t.Helper()
	key, err := ssh.NewSignerFromSigner(newKey(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := w.ca.Issue(
		w.t.Context(),
		ca.Request{Profile: ca.Host, SSHKey: key.PublicKey(), Names: []string{name, name + "." + clusterName},
			Identity: identity.Identity{
				Kind:    identity.Node,
				Cluster: clusterName,
				Name:    name,
				ID:      "0123456789abcdef0123456789abcdef",
			}},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := ssh.NewCertSigner(out.SSH, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return &host{cert: cert}
}

func (w *testCluster) serveDial(c *tls.Conn) {
	defer c.Close()
	req, err := dial.ReadRequest(c)
	if err != nil {
		return
	}
	w.recordCall("dial " + req.Node)
	w.mu.Lock()
	h, ok := w.hosts[strings.TrimSuffix(req.Node, "."+clusterName)]
	w.mu.Unlock()
	if !ok {
		f := fault.New(
			fault.NotFound,
			"proxy.dial",
			"there is no node "+req.Node+" that you may reach",
			"see: tsh ls",
		)
		_ = dial.WriteReply(c, dial.Reply{Fault: f})
		_, _ = io.CopyN(io.Discard, c, 1<<16)
		return
	}
	if dial.WriteReply(c, dial.Reply{}) == nil {
		h.serve(w, c)
	}
}

func (h *host) serve(w *testCluster, c net.Conn) {
	cfg := &ssh.ServerConfig{
		ServerVersion: h.version,
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			u, err := identity.VerifySSHUser(
				key,
				clusterName,
				w.keys.Public().UserSSH,
				c.RemoteAddr(),
				time.Now(),
			)
			if err == nil && !u.HasLogin(identity.Login(m.User())) {
				err = errors.New("no such login")
			}
			if err == nil && h.refuse != "" {
				err = &ssh.BannerError{Err: errors.New("refused"), Message: h.refuse}
			}
			return nil, err
		},
	}
	cfg.AddHostKey(h.cert)
	conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	defer conn.Close()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { h.globals(reqs) })
	if h.endNotice != "" {
		_, _, _ = conn.SendRequest(dial.EndNotice, false, []byte(h.endNotice))
		_ = conn.Close()
		return
	}
	for nc := range chans {
		if nc.ChannelType() != "session" {
			h.channel(&all, nc)
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		all.Go(func() { h.session(conn.User(), ch, h.opening(nc, reqs)) })
	}
}

// opening puts what came with the channel in front of the requests, for a server whose version says that it
// reads it.
func (h *host) opening(nc ssh.NewChannel, reqs <-chan *ssh.Request) <-chan *ssh.Request {
	if h.version == "" {
		if len(nc.ExtraData()) > 0 {
			panic("an opening was sent to a server that reads none")
		}
		return reqs
	}
	asked, err := dial.ParseEarlyRequests(nc.ExtraData())
	if err != nil {
		panic(err)
	}
	all := make(chan *ssh.Request, len(asked))
	for _, a := range asked {
		all <- &ssh.Request{Type: a.Type, Payload: a.Payload}
	}
	go func() {
		defer close(all)
		for r := range reqs {
			all <- r
		}
	}()
	return all
}

func (h *host) globals(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if h.request != nil && r.Type != "keepalive@openssh.com" {
			h.request(r)
		} else {
			_ = r.Reply(false, nil)
		}
	}
}

func (h *host) channel(all *sync.WaitGroup, nc ssh.NewChannel) {
	if h.forward == nil {
		_ = nc.Reject(ssh.Prohibited, "no role of alice allows "+nc.ChannelType())
		return
	}
	all.Go(func() { h.forward(nc) })
}

func (h *host) session(user string, ch ssh.Channel, reqs <-chan *ssh.Request) {
	defer ch.Close()
	env := map[string]string{"USER": user}
	for r := range reqs {
		var s struct{ Text string }
		_ = ssh.Unmarshal(r.Payload, &s)
		switch r.Type {
		case "env":
			var kv struct{ Name, Value string }
			_ = ssh.Unmarshal(r.Payload, &kv)
			env[kv.Name] = kv.Value
			_ = r.Reply(true, nil)
		case "pty-req":
			env["TERM"] = s.Text
			_ = r.Reply(true, nil)
		case "subsystem":
			if h.root == "" {
				_, _ = io.WriteString(
					ch.Stderr(),
					"threshold: error: no role of alice allows sftp as alice on this node\nthreshold: hint: ask for one that does\n",
				)
			}
			_ = r.Reply(s.Text == "sftp" && h.root != "", nil)
			if h.root != "" {
				h.files(ch)
				return
			}
		case "exec", "shell":
			_ = r.Reply(true, nil)
			go h.watch(reqs)
			h.run(s.Text, env, ch)
			return
		default:
			_ = r.Reply(false, nil)
		}
	}
}

// watch hands on what happens while a command runs. It ends with the channel.
func (h *host) watch(reqs <-chan *ssh.Request) {
	for r := range reqs {
		_ = r.Reply(false, nil)
		if h.events == nil {
			continue
		}
		switch r.Type {
		case "signal":
			var s struct{ Name string }
			_ = ssh.Unmarshal(r.Payload, &s)
			h.events <- "signal " + s.Name
		case "window-change":
			var s struct{ Columns, Rows, Width, Height uint32 }
			_ = ssh.Unmarshal(r.Payload, &s)
			h.events <- fmt.Sprintf("size %dx%d", s.Columns, s.Rows)
		}
	}
}

func (h *host) files(ch ssh.Channel) {
	srv, err := sftp.NewServer(ch, sftp.WithServerWorkingDirectory(h.root))
	if err == nil {
		_ = srv.Serve()
		_ = srv.Close()
	}
}

func (h *host) run(cmd string, env map[string]string, ch ssh.Channel) {
	if h.command != nil {
		if sig := h.command(cmd, ch); sig != "" {
			_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Name      string
				Core      bool
				Msg, Lang string
			}{string(sig), false, "", ""}))
			return
		}
	} else {
		in, _ := io.ReadAll(ch)
		_ = json.NewEncoder(ch).Encode(map[string]any{"cmd": cmd, "in": string(in), "env": env})
		_, _ = io.WriteString(ch.Stderr(), "oops\n")
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{h.status}))
}

// client is a person's machine.
type client struct {
	t    testing.TB
	w    *testCluster
	home string
	env  map[string]string
	now  func() time.Time
}

func (w *testCluster) client() *client {
	home := filepath.Join(w.t.TempDir(), "tsh home")
	return &client{
		t:    w.t,
		w:    w,
		home: home,
		env:  map[string]string{"TSH_HOME": home, "USER": "alice", "TERM": "xterm", "LANG": "ko_KR.UTF-8"},
		now:  time.Now,
	}
}

// result is what a command left.
type result struct {
	code        int
	out, stderr string
}

func (c *client) run(args ...string) result { return c.runWith(strings.NewReader(""), args...) }

func (c *client) runWith(in io.Reader, args ...string) result {
	c.t.Helper()
	var out, errs bytes.Buffer
	code := tsh.Main(
		c.t.Context(),
		tsh.Env{
			Args:    args,
			Stdin:   in,
			Stdout:  &out,
			Stderr:  &errs,
			Getenv:  c.getenv,
			Version: "test",
			Now:     c.now,
		},
	)
	return result{code, out.String(), errs.String()}
}

func (c *client) getenv(name string) string { return c.env[name] }

// ok runs a command that must succeed.
func (c *client) ok(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatalf("tsh %s: got %d, %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.out
}

// refused runs a command that must fail with all the words, and a hint.
func (c *client) refused(code int, args []string, words ...string) {
	c.t.Helper()
	c.wantRefusal(c.run(args...), strings.Join(args, " "), code, words...)
}

func (c *client) wantRefusal(r result, what string, code int, words ...string) {
	c.t.Helper()
	if r.code != code || !strings.Contains(r.stderr, "tsh: error: ") ||
		!strings.Contains(r.stderr, "\ntsh: hint: ") {
		c.t.Errorf("%s: got %d %q, want %d, an error and a hint", what, r.code, r.stderr, code)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			c.t.Errorf("%s: got %q, want %q in it", what, r.stderr, word)
		}
	}
}

// login runs tsh login; browse plays the browser with the address that is printed.
func (c *client) login(browse func(page string), args ...string) result {
	c.t.Helper()
	return c.loginIn(c.t.Context(), browse, append([]string{"--browser=none"}, args...)...)
}

func (c *client) loginIn(ctx context.Context, browse func(page string), args ...string) result {
	c.t.Helper()
	r, w := io.Pipe()
	var errs bytes.Buffer
	codes := make(chan int, 1)
	go func() {
		codes <- tsh.Main(ctx, tsh.Env{Args: append([]string{"login", "--proxy", c.w.addr}, args...), Stdin: strings.NewReader(""), Stdout: w, Stderr: &errs, Getenv: c.getenv, Now: c.now})
		_ = w.Close()
	}()
	var out strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
		if page, ok := strings.CutPrefix(lines.Text(), "Open: "); ok {
			go browse(page)
		}
	}
	return result{<-codes, out.String(), errs.String()}
}

// loggedIn gives a client that is logged in.
func (w *testCluster) loggedIn() *client {
	w.t.Helper()
	c := w.client()
	if r := c.login(c.browse, "--pin", w.keys.Pin().String()); r.code != 0 {
		w.t.Fatalf("login: got %d %s", r.code, r.stderr)
	}
	w.takeCalls()
	return c
}
