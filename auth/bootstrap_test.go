package auth

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// newServerIn makes a server over the data folder in dir that is not yet run.
func newServerIn(t *testing.T, dir string, bootstrap []byte, resume bool) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Dir:             filepath.Join(dir, "auth"),
		Listener:        ln,
		Bootstrap:       bootstrap,
		ResumeBootstrap: resume,
		BootstrapName:   "cluster.yaml",
		ReplicaID:       "auth-1",
		Log:             slog.New(slog.DiscardHandler),
	})
	if err != nil {
		ln.Close()
		t.Fatal(err)
	}
	return s
}

// runAndFail runs a server that must end by itself, and returns why it does.
func runAndFail(t *testing.T, dir string, bootstrap []byte) error {
	t.Helper()
	s := newServerIn(t, dir, bootstrap, false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := s.Run(ctx)
	if s.Ready(ctx) == nil {
		t.Error("got ready from a server that has ended")
	}
	if conn, err := net.Dial("tcp", s.cfg.Listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
	return err
}

// A data folder without a cluster needs a bootstrap file, and one with a cluster refuses it, unless the
// server may resume the bootstrap of the same cluster.
func TestBootstrapNeedsAnEmptyFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := runAndFail(t, dir, nil)
	if !fault.Is(err, fault.NotFound) || !strings.Contains(fault.Remedy(err), "--bootstrap") {
		t.Errorf("an empty folder without a file: got %v, want not found, and --bootstrap as the remedy", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "auth")); !os.IsNotExist(err) {
		t.Errorf("got %v, want nothing created", err)
	}
	s := startServer(t, dir, bootstrapText(dir))
	pin := s.auth.Pin()
	s.must(s.stop())
	err = runAndFail(t, dir, bootstrapText(dir))
	if !fault.Is(err, fault.Conflict) || fault.Remedy(err) != "start without --bootstrap" {
		t.Errorf("bootstrap of a folder with a cluster: got %v, want a conflict", err)
	}
	other := []byte(strings.Replace(string(bootstrapText(dir)), "example.com", "other.example.com", 1))
	if err := newServerIn(t, dir, other, true).Run(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("resuming the bootstrap of another cluster: got %v, want a conflict", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	resumed, ended := newServerIn(t, dir, bootstrapText(dir), true), make(chan error, 1)
	go func() { ended <- resumed.Run(ctx) }()
	if err := resumed.Ready(ctx); err != nil || resumed.Pin() != pin {
		t.Errorf("resuming the bootstrap of this cluster: got %v, %v, want it open", resumed.Pin(), err)
	}
	cancel()
	s.must(<-ended)
	again := startServer(t, dir, nil).auth
	if again.Pin() != pin || again.Cluster() != "example.com" ||
		!strings.Contains(string(again.RootPEM()), "BEGIN CERTIFICATE") {
		t.Errorf("after a restart: got %s of %q, want the same cluster", again.Pin(), again.Cluster())
	}
}

func TestARestartContinuesTheChain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, bootstrapText(dir))
	n := s.join(identity.Node, "web", nil)
	trust, err := rules.Open(s.auth.Pin(), n.res.Rules)
	s.must(err)
	s.must(s.stop())
	s = startServer(t, dir, nil)
	client := s.client(n.cert())
	update, err := authrpc.Call(t.Context(), client, authrpc.GetRules, authrpc.WatchRulesRequest{})
	s.must(err)
	machine := rules.NewReceiver(trust, time.Now())
	for _, piece := range update.Pieces {
		_, err := machine.Offer(time.Now(), piece)
		s.must(err)
	}
	if !trust.Head.Sequence.Before(machine.Current().Head.Sequence) {
		t.Errorf("got head %s after %s, want the head after the restart to follow the one before",
			machine.Current().Head.Sequence, trust.Head.Sequence)
	}
}

// The roles, the connector and the administrator's claim of the bootstrap file are in the new cluster; the
// client secret is not shown.
func TestANewClusterHasWhatTheFileSays(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	admin := s.user("alice", "admin")
	list := func(kind access.Resource) (names string, specs string) {
		req := authrpc.GetResourcesRequest{Kind: kind}
		got, err := authrpc.Call(t.Context(), admin, authrpc.GetResources, req)
		s.must(err)
		for _, r := range got.Resources {
			names += r.Metadata.Name + " "
			specs += string(r.Spec)
		}
		return strings.TrimSpace(names), specs
	}
	if names, _ := list(access.Roles); names != "admin ops viewer" {
		t.Errorf("got roles %q, want admin ops viewer", names)
	}
	names, specs := list(access.Connectors)
	if names != "corp" {
		t.Errorf("got connectors %q, want corp", names)
	}
	if strings.Contains(specs, "a client secret") {
		t.Errorf("the connector shows its secret: %s", specs)
	}
	if !strings.Contains(specs, `{"claim":"groups","value":"admins","roles":["admin"]}`) {
		t.Errorf("got %s, want the claim that makes an administrator", specs)
	}
	info, err := os.Stat(filepath.Join(s.dir, "seal.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a seal key of mode 0600", info, err)
	}
}

func TestAClusterDoesNotOpenWithoutItsSeal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, bootstrapText(dir))
	s.must(s.stop())
	seal := filepath.Join(dir, "seal.key")
	s.must(os.Rename(seal, seal+".away"))
	if err := runAndFail(t, dir, nil); err == nil || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a fault with a remedy", err)
	}
	s.must(os.Rename(seal+".away", seal))
	startServer(t, dir, nil)
}

// No file of the data folder contains the client secret, the secret of a join token or a private key.
func TestTheDiskHoldsNoSecretInTheClear(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, bootstrapText(dir))
	token, err := s.auth.Invite(t.Context(), Invitation{Kind: identity.Node})
	s.must(err)
	s.must(s.stop())
	secrets := []string{"a client secret", strings.Split(token.String(), ".")[2], "PRIVATE KEY"}
	err = filepath.WalkDir(filepath.Join(dir, "auth"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, secret := range secrets {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		return err
	})
	s.must(err)
}

// On a full disk every change is refused with a remedy, and reads are answered. After a restart with space,
// what was acknowledged is there, what was refused is not, and the join token is still good.
func TestAFullDiskIsReportedAndNothingIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := raftstoretest.NewPowerFS(1)
	onDisk := func(store *raftstore.Config) { store.FS = disk }
	s := startServer(t, dir, bootstrapText(dir), onDisk)
	admin := s.user("alice", "admin")
	_, err := s.apply(admin, "role", authrpc.Metadata{Name: "before"})
	s.must(err)
	token, err := s.auth.Invite(t.Context(), Invitation{Kind: identity.Node})
	s.must(err)

	disk.FailAfter(0, syscall.ENOSPC)
	exhausted := func(what string, err error) {
		t.Helper()
		if !fault.Is(err, fault.Exhausted) || !strings.Contains(fault.Remedy(err), "free space") {
			t.Errorf("%s: got %v, want exhausted and: free space", what, err)
		}
	}
	_, err = s.apply(admin, "role", authrpc.Metadata{Name: "during"})
	exhausted("apply", err)
	r, _ := s.request(token.String(), identity.Node, "web")
	_, err = authrpc.Call(t.Context(), s.client(nil), authrpc.Join, r)
	exhausted("join", err)
	exhausted("a certificate", s.auth.services.certificate.Renew(t.Context()))
	readRole := func(name string) error {
		req := authrpc.GetResourcesRequest{Kind: access.Roles, Name: name}
		_, err := authrpc.Call(t.Context(), admin, authrpc.GetResources, req)
		return err
	}
	if err := readRole("before"); err != nil {
		t.Errorf("reading: got %v, want an answer", err)
	}
	if err := s.stop(); !fault.Is(err, fault.Exhausted) {
		t.Errorf("got %v from Run, want exhausted", err)
	}

	disk.Restore()
	s = startServer(t, dir, nil, onDisk)
	admin = s.user("alice", "admin")
	for name, want := range map[string]fault.Kind{"before": "", "during": fault.NotFound} {
		if err := readRole(name); fault.KindOf(err) != want {
			t.Errorf("the role %s after the restart: got %v, want kind %q", name, err, want)
		}
	}
	r.Time = s.now() // the token is still unused
	if _, err := authrpc.Call(t.Context(), s.client(nil), authrpc.Join, r); err != nil {
		t.Errorf("join after the restart: got %v", err)
	}
}
