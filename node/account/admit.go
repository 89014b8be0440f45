package account

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxText bounds, in bytes, what is read of a file that an administrator wrote for people who log in.
const maxText = 64 << 10

// Admit returns the account if the machine admits it now: the machine is not closed to everyone but root
// (nologin(5)), and the account has not expired (shadow(5)). A locked or expired password does not matter,
// because nobody shows a password here; Debian's sshd treats logins with a key in the same way. Besides those
// of Find, the error is a fault of kind Unavailable (closed) or Denied (expired).
func (d Database) Admit(login identity.Login) (Account, error) {
	acc, err := d.Find(login)
	if err != nil {
		return Account{}, err
	}
	if err := d.checkNologin(acc); err != nil {
		return Account{}, err
	}
	return acc, d.checkExpiry(acc)
}

// checkNologin returns an error if the machine admits only root and the account is another.
func (d Database) checkNologin(acc Account) error {
	if acc.UID == 0 {
		return nil
	}
	for _, name := range []string{"run/nologin", "etc/nologin"} {
		text, err := readText(d.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		msg := "this node lets only root in at the moment"
		if reason := strings.Join(strings.Fields(text), " "); reason != "" {
			msg += ": " + reason
		}
		return fault.New(fault.Unavailable, "account.Admit",
			msg, "try again later, or ask an administrator of the node")
	}
	return nil
}

// readText returns the beginning of a file that was written for people.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	return string(b), err
}

// checkExpiry returns an error from the day on that shadow(5) names as the account's end. It checks nothing
// when this process is not root: only root can read the file, and only root becomes other accounts.
func (d Database) checkExpiry(acc Account) error {
	if d.UID != 0 {
		return nil
	}
	const op = "account.Admit"
	const nameField, expiryField, fields = 0, 7, 9 // of shadow(5); expiry in days since 1970-01-01
	expiry := int64(-1)
	err := eachLine(d.path("etc/shadow"), func(f []string) bool {
		if len(f) != fields || f[nameField] != string(acc.Login) {
			return true
		}
		if day, err := strconv.ParseInt(f[expiryField], 10, 64); err == nil {
			expiry = day
		}
		return false
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(err, fault.Internal, op,
			"the accounts of this node cannot be read", "ask an administrator to look at the node")
	}
	const day = 24 * time.Hour
	if expiry < 0 || d.now().Unix()/int64(day/time.Second) < expiry {
		return nil
	}
	return fault.New(fault.Denied, op, fmt.Sprintf("the account %s of this node has expired", acc.Login),
		"ask an administrator of the node to extend it (chage -E)")
}
