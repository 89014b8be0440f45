package auth

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/threshold-access/threshold/ca/rootkey"
	"github.com/threshold-access/threshold/internal/fault"
)

// withoutRoot is a bootstrap file whose cluster does not keep its root key.
func withoutRoot(dir string) []byte {
	return []byte(strings.Replace(string(bootstrapText(dir)), "  root_key: store\n", "", 1))
}

// The root key is in its file before the cluster exists. Without a place for it there is no cluster, and a
// file that is there already is not overwritten.
func TestTheRootKeyIsWrittenBeforeTheClusterExists(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "root.key.age")
	create := func(root RootKeyFile) (*Server, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		server, err := New(Config{
			Dir:           filepath.Join(dir, "auth"),
			Listener:      ln,
			Bootstrap:     withoutRoot(dir),
			BootstrapName: "cluster.yaml",
			RootKey:       root,
			ReplicaID:     "auth-1",
			Version:       "test",
			Log:           slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- server.Run(ctx) }()
		ready := server.Ready(ctx) // returns when the server has ended, too
		cancel()
		if err := <-ended; err != nil {
			return nil, err
		}
		return server, ready
	}
	wantRefused := func(what string, err error, kind fault.Kind) {
		t.Helper()
		if !fault.Is(err, kind) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want a fault of kind %s with a remedy", what, err, kind)
		}
	}
	_, err = create(RootKeyFile{})
	wantRefused("no file", err, fault.Invalid)
	_, err = create(RootKeyFile{Path: file})
	wantRefused("no protection", err, fault.Invalid)
	protected := RootKeyFile{Path: file, Recipients: []string{identity.Recipient().String()}}
	if err := os.WriteFile(file, []byte("the key of another cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = create(protected)
	wantRefused("a file that exists", err, fault.Conflict)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	server, err := create(protected)
	if err != nil {
		t.Fatalf("got %v once the file was removed, want the cluster: the try before stored nothing", err)
	}
	key, err := rootkey.Read(file, rootkey.Opening{Identities: []byte(identity.String())})
	if err != nil || key.Pin() != server.Pin() {
		t.Errorf("got %v, %v, want the root key of the cluster", key, err)
	}
}
