package auth

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// runAndFail runs a server that should not come up, and returns why.
func runAndFail(t *testing.T, dir string, birth []byte) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Dir:           filepath.Join(dir, "auth"),
		Listener:      ln,
		Bootstrap:     birth,
		BootstrapName: "cluster.yaml",
		ReplicaID:     "auth-1",
		Log:           slog.New(slog.DiscardHandler),
	})
	if err != nil {
		ln.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = s.Run(ctx)
	if ready := s.Ready(ctx); ready == nil {
		t.Error("got ready from a server that ended")
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
	return err
}

func TestBootstrapNeedsAnEmptyFolder(t *testing.T) {
	dir := t.TempDir()
	if err := runAndFail(t, dir, nil); !fault.Is(err, fault.NotFound) ||
		!strings.Contains(fault.Remedy(err), "--bootstrap") {
		t.Errorf("an empty folder without a file: got %v, want not found and how to be born", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "auth")); !os.IsNotExist(err) {
		t.Errorf("got %v, want nothing made", err)
	}
	w := startServer(t, dir, bootstrapText(dir))
	pin := w.auth.Pin()
	w.must(w.stop())
	if err := runAndFail(t, dir, bootstrapText(dir)); !fault.Is(err, fault.Conflict) ||
		fault.Remedy(err) != "start without --bootstrap" {
		t.Errorf("a second birth: got %v, want a conflict", err)
	}
	resume := func(name string) *Server {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		w.must(err)
		birth := []byte(strings.Replace(string(bootstrapText(dir)), "example.com", name, 1))
		s, err := New(Config{
			Dir:             filepath.Join(dir, "auth"),
			Listener:        ln,
			Bootstrap:       birth,
			ResumeBootstrap: true,
			ReplicaID:       "auth-1",
			Log:             slog.New(slog.DiscardHandler),
		})
		w.must(err)
		return s
	}
	if err := resume("other.example.com").Run(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("resuming the birth of another cluster: got %v, want a conflict", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, ended := resume("example.com"), make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := s.Ready(ctx); err != nil || s.Pin() != pin {
		t.Errorf("resuming the birth of this cluster: got %v, %v, want it open", s.Pin(), err)
	}
	cancel()
	w.must(<-ended)
	again := startServer(t, dir, nil)
	if again.auth.Pin() != pin || again.auth.Cluster() != "example.com" ||
		!strings.Contains(string(again.auth.RootPEM()), "BEGIN CERTIFICATE") {
		t.Errorf(
			"got %s of %q after a restart, want the same cluster",
			again.auth.Pin(),
			again.auth.Cluster(),
		)
	}
}

func TestARestartContinuesTheChain(t *testing.T) {
	dir := t.TempDir()
	w := startServer(t, dir, bootstrapText(dir))
	n := w.join(identity.Node, "web", nil)
	trust, err := rules.Open(w.auth.Pin(), n.res.Rules)
	w.must(err)
	w.must(w.stop())
	w = startServer(t, dir, nil)
	update, err := authrpc.Call(
		t.Context(),
		w.client(n.cert()),
		authrpc.GetRules,
		authrpc.WatchRulesRequest{},
	)
	w.must(err)
	if _, err := trust.Advance(update.Set); err != nil {
		t.Errorf("got %v, want the set after the restart to follow the one before", err)
	}
}

func TestANewClusterHasWhatTheFileSays(t *testing.T) {
	w := newTestServer(t)
	admin := w.user("alice", "admin")
	for kind, want := range map[access.Resource]string{access.Roles: "admin ops viewer", access.Connectors: "corp"} {
		got, err := authrpc.Call(
			t.Context(),
			admin,
			authrpc.GetResources,
			authrpc.GetResourcesRequest{Kind: kind},
		)
		w.must(err)
		var names []string
		for _, r := range got.Resources {
			names = append(names, r.Metadata.Name)
			if strings.Contains(string(r.Spec), "a client secret") {
				t.Errorf("%s shows its secret: %s", r.Metadata.Name, r.Spec)
			}
			if kind == access.Connectors &&
				!strings.Contains(string(r.Spec), `{"claim":"groups","value":"admins","roles":["admin"]}`) {
				t.Errorf("got %s, want the claim that makes an administrator", r.Spec)
			}
		}
		if strings.Join(names, " ") != want {
			t.Errorf("%s: got %v, want %s", kind, names, want)
		}
	}
	if info, err := os.Stat(filepath.Join(w.dir, "seal.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a seal key of mode 0600", info, err)
	}
}

func TestAClusterDoesNotOpenWithoutItsSeal(t *testing.T) {
	dir := t.TempDir()
	w := startServer(t, dir, bootstrapText(dir))
	w.must(w.stop())
	seal := filepath.Join(dir, "seal.key")
	w.must(os.Rename(seal, seal+".away"))
	if err := runAndFail(t, dir, nil); err == nil || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a fault with a remedy", err)
	}
	w.must(os.Rename(seal+".away", seal))
	startServer(t, dir, nil)
}

// The disk of auth holds no secret in the clear.
func TestTheDiskHoldsNoSecretInTheClear(t *testing.T) {
	dir := t.TempDir()
	w := startServer(t, dir, bootstrapText(dir))
	token, err := w.auth.Invite(t.Context(), identity.Node, nil, 0)
	w.must(err)
	w.must(w.stop())
	for _, secret := range []string{"a client secret", strings.Split(token.String(), ".")[2], "PRIVATE KEY"} {
		err := filepath.Walk(
			filepath.Join(dir, "auth"),
			func(path string, info os.FileInfo, err error) error {
				if err != nil || info.IsDir() {
					return err
				}
				b, err := os.ReadFile(path)
				if strings.Contains(string(b), secret) {
					t.Errorf("%s holds %q", path, secret)
				}
				return err
			},
		)
		w.must(err)
	}
}

func TestABadBootstrapFileReportsEveryFault(t *testing.T) {
	const bad = `kind: cluster
version: v1
metadata: {name: Example}
spec:
  seal: nowhere
  conector: {name: corp}
  admin: {claim: groups, value: "*"}
---
kind: role
version: v2
metadata: {name: admin}
spec: {}
---
kind: role
version: v1
metadata: {name: ops}
spec:
  allow:
    - nodes: {env: prod}
      actions: [fly]
---
kind: cluster
version: v1
metadata: {name: example.com}
spec: {}
---
kind: spell
version: v1
metadata: {name: x}
spec: {}
`
	err := runAndFail(t, t.TempDir(), []byte(bad))
	var all config.Faults
	if !errors.As(err, &all) || !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Fatalf("got %v, want faults with a remedy", err)
	}
	for _, want := range []string{"cluster.yaml:1: metadata.name", "cluster.yaml:5: spec.seal", "cluster.yaml:6: spec.conector", "cluster.yaml:7: spec.admin.value",
		"cluster.yaml:9: version", "built in", "cluster.yaml:20: spec.allow[0].actions", "a second cluster document", `kind "spell"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwant it to say %q", err, want)
		}
	}
	if err := runAndFail(t, t.TempDir(), []byte("kind: role\nversion: v1\nmetadata: {name: x}\nspec: {}\n")); !strings.Contains(
		err.Error(),
		"no document of kind cluster",
	) {
		t.Errorf("got %v, want it to miss the cluster", err)
	}
}

func TestAFullDiskIsReportedAndNothingIsLost(t *testing.T) {
	dir := t.TempDir()
	disk := raftstoretest.NewPowerFS(1)
	onDisk := func(_ *Config, s *raftstore.Config) { s.FS = disk }
	w := startServer(t, dir, bootstrapText(dir), onDisk)
	admin := w.user("alice", "admin")
	apply := func(name string) error {
		_, err := authrpc.Call(
			t.Context(),
			admin,
			authrpc.ApplyResource,
			authrpc.ApplyResourceRequest{Resource: authrpc.Resource{
				Kind: "role", Version: "v1", Metadata: authrpc.Metadata{Name: name}, Spec: []byte(`{}`)}},
		)
		return err
	}
	w.must(apply("before"))
	token, err := w.auth.Invite(t.Context(), identity.Node, nil, 0)
	w.must(err)
	disk.FailAfter(0, syscall.ENOSPC)
	if err := apply("during"); !fault.Is(err, fault.Exhausted) ||
		!strings.Contains(fault.Remedy(err), "free space") {
		t.Errorf("apply: got %v, want exhausted and: free space", err)
	}
	r, _ := w.request(token.String(), identity.Node, "web")
	if _, err := authrpc.Call(t.Context(), w.client(nil), authrpc.Join, r); !fault.Is(err, fault.Exhausted) ||
		!strings.Contains(fault.Remedy(err), "free space") {
		t.Errorf("join: got %v, want exhausted and: free space", err)
	}
	if err := w.auth.renewCertificate(t.Context(), w.auth.services); !fault.Is(err, fault.Exhausted) {
		t.Errorf("a certificate: got %v, want exhausted", err)
	}
	if _, err := authrpc.Call(t.Context(), admin, authrpc.GetResources, authrpc.GetResourcesRequest{Kind: access.Roles, Name: "before"}); err != nil {
		t.Errorf("reading: got %v, want it to go on", err)
	}
	if err := w.stop(); !fault.Is(err, fault.Exhausted) {
		t.Errorf("got %v in the end, want exhausted", err)
	}
	disk.Restore()
	w = startServer(t, dir, nil, onDisk)
	admin = w.user("alice", "admin")
	for name, want := range map[string]fault.Kind{"before": "", "during": fault.NotFound} {
		_, err := authrpc.Call(
			t.Context(),
			admin,
			authrpc.GetResources,
			authrpc.GetResourcesRequest{Kind: access.Roles, Name: name},
		)
		if fault.KindOf(err) != want {
			t.Errorf("the role %s after the restart: got %v, want kind %q", name, err, want)
		}
	}
	r.Time = w.now() // the token is still good
	if _, err := authrpc.Call(t.Context(), w.client(nil), authrpc.Join, r); err != nil {
		t.Errorf("join after the restart: got %v", err)
	}
}
