package keyring_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/fault"
)

func TestSealOpensWhatItSealed(t *testing.T) {
	seal := keyringtest.Seal(t)
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("secret"), 1000)} {
		a, err := seal.Seal("name", plain)
		if err != nil {
			t.Fatal(err)
		}
		b, err := seal.Seal("name", plain)
		if err != nil || bytes.Equal(a, b) {
			t.Errorf("got the same bytes twice (%v), want a fresh nonce", err)
		}
		if got, err := seal.Open("name", a); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %q, %v, want %q", got, err, plain)
		}
		if len(plain) > 1 && bytes.Contains(a, plain[:6]) {
			t.Error("got the plaintext in the sealed bytes")
		}
	}
}

func TestSealRefusesForeignOrAlteredData(t *testing.T) {
	seal := keyringtest.Seal(t)
	sealed, err := seal.Seal("a", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x80
		_, err := seal.Open("a", bad)
		wantFault(t, fmt.Sprintf("byte %d flipped", i), err, fault.Invalid)
	}
	for n := range sealed {
		_, err := seal.Open("a", sealed[:n])
		wantFault(t, fmt.Sprintf("cut to %d", n), err, fault.Invalid)
	}
	for _, name := range []string{"", "b", "aa", "a\x00"} {
		_, err := seal.Open(name, sealed)
		wantFault(t, fmt.Sprintf("under the name %q", name), err, fault.Invalid)
	}
	_, err = keyringtest.Seal(t).Open("a", sealed)
	wantFault(t, "another key", err, fault.Invalid)
}

func TestSealURI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"file://" + path, "FILE://" + path, "file:" + path} {
		seal, err := keyring.OpenSeal(u)
		if err != nil {
			t.Errorf("OpenSeal(%q): %v", u, err)
			continue
		}
		if want := "file://" + path; seal.URI() != want {
			t.Errorf("got %q, want %q", seal.URI(), want)
		}
	}
	for _, u := range []string{"", path, "file:", "file:seal.key", "file://host" + path, "file://" + path + "?x=1", "file://" + path + "#x", "pkcs11:token=x", "awskms:key-id=1", "%zz:"} {
		_, err := keyring.OpenSeal(u)
		wantFault(t, u, err, fault.Invalid)
	}
	if _, err := keyring.OpenSeal("pkcs11:token=x"); !strings.Contains(
		fault.Message(err),
		"what exists: file",
	) {
		t.Errorf("got %q, want it to name what exists", fault.Message(err))
	}
}

func TestSealFileIsPrivateAndNeverOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	before, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(before, []byte("-----BEGIN THRESHOLD SEAL KEY-----")) {
		t.Errorf("got %q, %v, want text armour", before, err)
	}
	wantFault(t, "again", keyring.CreateSealFile(path), fault.Conflict)
	if after, _ := os.ReadFile(path); !bytes.Equal(after, before) {
		t.Error("got another key, want the first one kept")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "through a dangling link", keyring.CreateSealFile(link), fault.Conflict)
	wantFault(
		t,
		"no folder",
		keyring.CreateSealFile(filepath.Join(t.TempDir(), "no", "seal.key")),
		fault.Internal,
	)
}

func TestSealFileAccessibleToOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "seal.key")
	if err := keyring.CreateSealFile(good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		make func(path string) error
		kind fault.Kind // "": accepted
	}{
		{"its owner alone may read it", func(p string) error { return write(p, text, 0o400) }, ""},
		{"the world may read it", func(p string) error { return write(p, text, 0o644) }, fault.Denied},
		{"its group may read it", func(p string) error { return write(p, text, 0o640) }, fault.Denied},
		{"the world may write it", func(p string) error { return write(p, text, 0o602) }, fault.Denied},
		{"it is a folder", func(p string) error { return os.Mkdir(p, 0o700) }, fault.Denied},
		{"it is a FIFO", func(p string) error { return syscall.Mkfifo(p, 0o600) }, fault.Denied},
		{"it is a link", func(p string) error { return os.Symlink(good, p) }, fault.NotFound},
		{"it is not there", func(string) error { return nil }, fault.NotFound},
		{"it is empty", func(p string) error { return write(p, nil, 0o600) }, fault.Invalid},
		{"it is cut", func(p string) error { return write(p, text[:60], 0o600) }, fault.Invalid},
		{"it holds two keys", func(p string) error { return write(p, append(bytes.Clone(text), text...), 0o600) }, fault.Invalid},
		{"it is another armour", func(p string) error { return write(p, bytes.ReplaceAll(text, []byte("SEAL"), []byte("FAKE")), 0o600) }, fault.Invalid},
		{"its key is short", func(p string) error {
			return write(p, []byte("-----BEGIN THRESHOLD SEAL KEY-----\nAAAA\n-----END THRESHOLD SEAL KEY-----\n"), 0o600)
		}, fault.Invalid},
		{"it is huge", func(p string) error { return write(p, append(bytes.Repeat([]byte("x\n"), 1<<20), text...), 0o600) }, fault.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.key")
			if err := tc.make(path); err != nil {
				t.Fatal(err)
			}
			_, err := keyring.OpenSeal("file://" + path)
			if tc.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, tc.name, err, tc.kind)
			if strings.Contains(fmt.Sprint(err), string(text[40:60])) {
				t.Error("got the key in the message")
			}
		})
	}
}

// write sets the mode in spite of the umask.
func write(path string, text []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, text, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func TestSealFileOfAnotherAccountIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 { // only root can give a file away; an ordinary account meets a file of root's, whose mode is refused first
		path = "/etc/hostname"
	} else if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	_, err := keyring.OpenSeal("file://" + path)
	wantFault(t, "another owner", err, fault.Denied)
}
