// Package accounttest makes accounts and machine files for tests.
package accounttest

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"testing"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/account"
)

// Passwd and Group are files with ordinary and with malformed lines.
const (
	Passwd = `root:x:0:0:root:/root:/bin/bash
# a comment, and a malformed line
broken:x:1
negative:x:-1:5::/:/bin/sh
alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh
noshell:x:1001:1001::/home/n:
nohome:x:1002:1002:::/bin/sh
unset:x:4294967295:5:::/bin/sh
unsetgroup:x:1003:4294967295:::/bin/sh
alice:x:0:0:a second alice:/root:/bin/bash
`
	Group = `root:x:0:
sudo:x:27:alice,bob
alice:x:1000:
docker:x:998:bob,alice
bad:x:y:alice
twin:x:27:alice
`
)

// WriteFiles writes the files of a machine into a new directory, for account.Database.Root.
func WriteFiles(t testing.TB, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// Own returns the account that the tests run as.
func Own(t testing.TB) account.Account {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	acc, err := account.Local().Find(identity.Login(u.Username))
	if err != nil {
		t.Fatal(err)
	}
	return acc
}

// Other returns an account other than root if the tests run as root, else their own. The kernel needs no
// entry for it in any file.
func Other(t testing.TB) account.Account {
	t.Helper()
	if os.Geteuid() != 0 {
		return Own(t)
	}
	return account.Account{
		Login:  "someone",
		UID:    54321,
		GID:    54322,
		Groups: []uint32{54322},
		Home:   "/",
		Shell:  "/bin/sh",
	}
}

// Dir makes a directory that belongs to the account. It is not below t.TempDir, whose parents other accounts
// cannot enter.
func Dir(t testing.TB, acc account.Account) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "account-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, int(acc.UID), int(acc.GID)); err != nil {
		t.Fatal(err)
	}
	return dir
}
