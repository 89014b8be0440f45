package session

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

// maxText bounds what is shown of a file that an administrator wrote for people who log in.
const maxText = 64 << 10

// Admit finds the account and lets it in if the machine does so now: it is not closed to all but root
// (nologin(5)), and the account has not expired (shadow(5)). A locked password shuts nobody out, nor does an
// old one: people show no password here, and so it is with keys under Debian's sshd.
func (a Database) Admit(login identity.Login) (Account, error) {
	acc, err := a.Find(login)
	if err != nil {
		return Account{}, err
	}
	if err := a.checkNologin(acc); err != nil {
		return Account{}, err
	}
	return acc, a.checkExpiry(acc)
}

// checkNologin says whether the machine lets others than root in.
func (a Database) checkNologin(acc Account) error {
	if acc.UID == 0 {
		return nil
	}
	for _, name := range []string{"run/nologin", "etc/nologin"} {
		text, err := readText(a.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		msg := "this node lets only root in at the moment"
		if words := strings.Join(strings.Fields(text), " "); words != "" {
			msg += ": " + words
		}
		return fault.New(
			fault.Unavailable,
			"session.Admit",
			msg,
			"try again later, or ask an administrator of the node",
		)
	}
	return nil
}

// readText reads the beginning of a file that was written for people.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	return string(b), err
}

// checkExpiry says whether the account's own end has not come. Only root can read that file, and only root
// becomes others.
func (a Database) checkExpiry(acc Account) error {
	if a.UID != 0 {
		return nil
	}
	const name, end, fields = 0, 7, 9 // of shadow(5); the end is counted in days since 1970
	last := int64(-1)
	err := eachLine(a.path("etc/shadow"), func(f []string) bool {
		if len(f) != fields || f[name] != string(acc.Login) {
			return true
		}
		if day, err := strconv.ParseInt(f[end], 10, 64); err == nil {
			last = day
		}
		return false
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(
			err,
			fault.Internal,
			"session.Admit",
			"the accounts of this node cannot be read",
			"ask an administrator to look at the node",
		)
	}
	const day = 24 * time.Hour
	if last < 0 || a.now().Unix()/int64(day/time.Second) < last {
		return nil
	}
	return fault.New(
		fault.Denied,
		"session.Admit",
		fmt.Sprintf("the account %s of this node has expired", acc.Login),
		"ask an administrator of the node to prolong it (chage -E)",
	)
}
