package account

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxText bounds, in bytes, what is read of a file that an administrator wrote for people who log in.
const maxText = 64 << 10

// Admit returns the account if the machine lets it log in now: the machine is not closed to everyone but root
// (nologin(5)), and the account has not expired (shadow(5)). A locked or expired password does not matter,
// because nobody logs in with a password here; Debian's sshd treats logins with a key in the same way. The
// error is a fault as from Find, or of kind Unavailable (the machine is closed) or Denied (the account has
// expired).
func (d Database) Admit(login identity.Login) (Account, error) {
	acc, err := d.Find(login)
	if err != nil {
		return Account{}, err
	}
	if err := d.checkNologin(acc); err != nil {
		return Account{}, err
	}
	if err := d.checkExpiry(acc); err != nil {
		return Account{}, err
	}
	return acc, nil
}

// checkNologin returns a fault if the machine lets only root log in at the moment and the account is another.
// A nologin file that cannot be read counts as well: the machine is closed.
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
		return nodeClosedToLogins.New("account.Admit", fault.Args{"message": msg})
	}
	return nil
}

// readText returns the beginning of a file that was written for people, up to maxText.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	return string(b), err
}

// checkExpiry returns a fault if the account has expired: from the day on that shadow(5) has as its expiry.
// An account without a line or a day there never expires. It checks nothing if this process is not root: only
// root can read the file, and this process, which is already running as the account, can become no other.
func (d Database) checkExpiry(acc Account) error {
	if d.UID != 0 {
		return nil
	}
	const op = "account.Admit"
	const nameField, expiryField, fieldCount = 0, 7, 9 // of shadow(5); expiry in days since 1970-01-01
	expiry := int64(-1)                                // never
	err := eachLine(d.path("etc/shadow"), func(fields []string) bool {
		if len(fields) != fieldCount || fields[nameField] != string(acc.Login) {
			return true
		}
		if day, err := strconv.ParseInt(fields[expiryField], 10, 64); err == nil {
			expiry = day
		}
		return false
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return accountExpiryUnreadable.Wrap(err, op)
	}
	const secondsPerDay = 24 * 60 * 60
	today := d.now().Unix() / secondsPerDay
	if expiry < 0 || today < expiry {
		return nil
	}
	return accountExpired.New(op, fault.Args{"login": acc.Login})
}
