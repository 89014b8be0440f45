package rootkey_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/ca/rootkey"
	"github.com/threshold-access/threshold/internal/fault"
)

const cluster = "access.example.com"

func newKey(t *testing.T) *keyring.RootKey {
	t.Helper()
	_, key := keyringtest.NewWithRoot(t, cluster, time.Now())
	return key
}

// newIdentity returns an age identity: the file that opens, and the recipient that it opens for.
func newIdentity(t *testing.T) (rootkey.Opening, string) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return rootkey.Opening{Identities: []byte(identity.String() + "\n")}, identity.Recipient().String()
}

// wantFault fails unless err is of the kind and has a remedy.
func wantFault(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) || fault.Remedy(err) == "" {
		t.Errorf("%s: got %v, want a fault of kind %s with a remedy", what, err, kind)
	}
}

// The key that was written is the one that is read, by a recipient's identity or by the passphrase, and by no
// other. The file is private and shows nothing of the key.
func TestAWrittenKeyIsRead(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	mine, recipient := newIdentity(t)
	theirs, _ := newIdentity(t)
	for name, tt := range map[string]struct {
		protect      rootkey.Protection
		right, wrong rootkey.Opening
		passphrase   bool
	}{
		"a recipient": {rootkey.Protection{Recipients: []string{recipient}}, mine, theirs, false},
		"a passphrase": {
			rootkey.Protection{Passphrase: []byte("correct horse battery staple")},
			rootkey.Opening{Passphrase: []byte("correct horse battery staple")},
			rootkey.Opening{Passphrase: []byte("incorrect horse battery")},
			true,
		},
	} {
		path := filepath.Join(t.TempDir(), "root.key.age")
		if err := rootkey.Write(path, key, tt.protect); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != fs.FileMode(0o600) {
			t.Errorf("%s: got %v, %v, want mode 0600", name, info.Mode(), err)
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), cluster) ||
			!strings.HasPrefix(string(text), "-----BEGIN AGE ENCRYPTED FILE-----") {
			t.Errorf("%s: got %s, %v, want an age file that shows nothing", name, text, err)
		}
		read, err := rootkey.Read(path, tt.right)
		if err != nil || read.Pin() != key.Pin() || read.Cluster() != cluster {
			t.Errorf("%s: got %v, %v, want the key", name, read, err)
		}
		_, err = rootkey.Read(path, tt.wrong)
		wantFault(t, name+", wrong", err, fault.Denied)
		if got, err := rootkey.NeedsPassphrase(path); got != tt.passphrase || err != nil {
			t.Errorf("%s: got passphrase %v, %v, want %v", name, got, err, tt.passphrase)
		}
	}
}

func TestAFileIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	_, recipient := newIdentity(t)
	protect := rootkey.Protection{Recipients: []string{recipient}}
	path := filepath.Join(t.TempDir(), "root.key.age")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "an existing file", rootkey.Write(path, newKey(t), protect), fault.Conflict)
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("got %q, %v, want the file as it was", text, err)
	}
	missing := filepath.Join(t.TempDir(), "no", "root.key.age")
	wantFault(t, "no folder", rootkey.Write(missing, newKey(t), protect), fault.Internal)
}

func TestUnprotectedKeysAreNotWritten(t *testing.T) {
	t.Parallel()
	_, recipient := newIdentity(t)
	for name, protect := range map[string]rootkey.Protection{
		"nothing":               {},
		"a short passphrase":    {Passphrase: []byte("swordfish")},
		"a malformed recipient": {Recipients: []string{"age1nonsense"}},
		"an identity":           {Recipients: []string{"AGE-SECRET-KEY-1NONSENSE"}},
		"both":                  {Recipients: []string{recipient}, Passphrase: []byte("correct horse battery")},
	} {
		path := filepath.Join(t.TempDir(), "root.key.age")
		wantFault(t, name, rootkey.Write(path, newKey(t), protect), fault.Invalid)
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: got a file", name)
		}
	}
}

// Files that are no root key, or of which parts do not belong together, are refused.
func TestForeignFilesAreRefused(t *testing.T) {
	t.Parallel()
	opening, recipient := newIdentity(t)
	dir := t.TempDir()
	_, err := rootkey.Read(filepath.Join(dir, "missing"), opening)
	wantFault(t, "a missing file", err, fault.NotFound)
	path := filepath.Join(dir, "root.key.age")
	protect := rootkey.Protection{Recipients: []string{recipient}}
	if err := rootkey.Write(path, newKey(t), protect); err != nil {
		t.Fatal(err)
	}
	good := decrypt(t, path, opening)
	other := filepath.Join(dir, "other.key.age")
	if err := rootkey.Write(other, newKey(t), protect); err != nil {
		t.Fatal(err)
	}
	foreign := decrypt(t, other, opening)
	for name, tt := range map[string]struct {
		change func(map[string]any)
		kind   fault.Kind // "": it is read
	}{
		"an unknown field": {func(c map[string]any) { c["future"] = 1 }, ""},
		"an unknown critical field": {
			func(c map[string]any) { c["critical"] = []string{"future"} }, fault.Invalid,
		},
		"a newer version":     {func(c map[string]any) { c["v"] = rootkey.Version + 1 }, fault.Invalid},
		"another key":         {func(c map[string]any) { c["key"] = foreign["key"] }, fault.Invalid},
		"another certificate": {func(c map[string]any) { c["cert"] = foreign["cert"] }, fault.Invalid},
		"another pin":         {func(c map[string]any) { c["pin"] = foreign["pin"] }, fault.Invalid},
		"no key":              {func(c map[string]any) { delete(c, "key") }, fault.Invalid},
		"a malformed cluster": {func(c map[string]any) { c["cluster"] = "a/b" }, fault.Invalid},
	} {
		changed := map[string]any{}
		for k, v := range good {
			changed[k] = v
		}
		tt.change(changed)
		file := filepath.Join(t.TempDir(), "root.key.age")
		encrypt(t, file, changed, recipient)
		key, err := rootkey.Read(file, opening)
		if tt.kind == "" {
			if err != nil || key == nil {
				t.Errorf("%s: got %v, %v, want it read", name, key, err)
			}
			continue
		}
		wantFault(t, name, err, tt.kind)
	}
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = rootkey.Read(path, opening)
	wantFault(t, "a file of another program", err, fault.Invalid)
}

// decrypt returns the content of a root key file.
func decrypt(t *testing.T, path string, o rootkey.Opening) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(o.Identities))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(text)), identities...)
	if err != nil {
		t.Fatal(err)
	}
	var content map[string]any
	if err := json.NewDecoder(plain).Decode(&content); err != nil {
		t.Fatal(err)
	}
	return content
}

// encrypt writes a root key file with any content.
func encrypt(t *testing.T, path string, content map[string]any, recipient string) {
	t.Helper()
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(w).Encode(content); err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Close() error }{w, armored} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

var update = flag.Bool("update", false, "write the golden files")

// A file of an earlier release is read by this one. No cluster has this key.
func TestGoldenFileIsRead(t *testing.T) {
	t.Parallel()
	const file, identityFile = "testdata/root.key.age", "testdata/identity.txt"
	if *update {
		opening, recipient := newIdentity(t)
		_ = os.Remove(file)
		protect := rootkey.Protection{Recipients: []string{recipient}}
		if err := rootkey.Write(file, newKey(t), protect); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(identityFile, opening.Identities, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	identities, err := os.ReadFile(identityFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rootkey.Read(file, rootkey.Opening{Identities: identities})
	if err != nil || key.Cluster() != cluster {
		t.Errorf("got %v, %v, want the key of %s", key, err, cluster)
	}
}
