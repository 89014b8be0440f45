package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Account is an operating-system account of this machine.
type Account struct {
	Login  identity.Login
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
	Shell  string
}

// Database says who can be looked up, and as whom sessions can run.
type Database struct {
	Root string           // the folder that holds etc, run and var; empty means /
	UID  uint32           // of this process: 0 may become anyone, any other only itself
	Now  func() time.Time // nil means time.Now
}

// maxLine bounds one line of the account files.
const maxLine = 1 << 20

// path is where a file of the machine is.
func (a Database) path(name string) string { return filepath.Join("/", a.Root, name) }

func (a Database) now() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}

// Local is the accounts of the machine, as this process may use them.
func Local() Database { return Database{UID: uint32(os.Geteuid())} }

// Find returns the account, or says why a session cannot run as it.
func (a Database) Find(login identity.Login) (Account, error) {
	if err := identity.CheckLogin(login); err != nil {
		return Account{}, fault.Wrap(
			err,
			fault.Invalid,
			"session.Find",
			err.Error(),
			"name an account of the node",
		)
	}
	acc, found, err := a.findPasswd(func(acc Account) bool { return acc.Login == login })
	if err != nil {
		return Account{}, fault.Wrap(
			err,
			fault.Internal,
			"session.Find",
			"the accounts of this node cannot be read",
			"ask an administrator to look at the node",
		)
	}
	if !found {
		return Account{}, fault.New(
			fault.NotFound,
			"session.Find",
			fmt.Sprintf("there is no account %q on this node", login),
			"ask an administrator to make the account, or use another login",
		)
	}
	if a.UID != 0 && acc.UID != a.UID {
		return Account{}, a.notRootError(login)
	}
	if acc.Groups, err = a.groupsOf(login, acc.GID); err != nil {
		return Account{}, fault.Wrap(
			err,
			fault.Internal,
			"session.Find",
			"the groups of this node cannot be read",
			"ask an administrator to look at the node",
		)
	}
	return acc, nil
}

func (a Database) notRootError(login identity.Login) error {
	own, found, err := a.findPasswd(func(acc Account) bool { return acc.UID == a.UID })
	name := string(own.Login)
	if err != nil || !found {
		name = "user id " + strconv.FormatUint(uint64(a.UID), 10)
	}
	return fault.New(
		fault.Denied,
		"session.Find",
		fmt.Sprintf("this node runs as %s, not as root, so it cannot start a session as %s", name, login),
		"log in as "+name+", or ask an administrator to run the node as root",
	)
}

// unsetID is what the kernel takes for "as it is" where ids are changed: whoever had that number would stay
// root.
const unsetID = 1<<32 - 1

// findPasswd returns the first account of the file that match picks (passwd(5)). Lines that are not accounts
// are passed over.
func (a Database) findPasswd(match func(Account) bool) (acc Account, found bool, err error) {
	err = eachLine(a.path("etc/passwd"), func(f []string) bool {
		if len(f) != 7 {
			return true
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || uid == unsetID || gid == unsetID {
			return true
		}
		acc = Account{
			Login: identity.Login(f[0]),
			UID:   uint32(uid),
			GID:   uint32(gid),
			Home:  f[5],
			Shell: f[6],
		}
		found = match(acc)
		return !found
	})
	if acc.Shell == "" {
		acc.Shell = "/bin/sh" // as passwd(5) says
	}
	if !filepath.IsAbs(acc.Home) {
		acc.Home = "/"
	}
	return acc, found, err
}

// groupsOf lists the groups that name the account as a member, with its own first (group(5)).
func (a Database) groupsOf(login identity.Login, own uint32) ([]uint32, error) {
	out := []uint32{own}
	err := eachLine(a.path("etc/group"), func(f []string) bool {
		if len(f) == 4 && slices.Contains(strings.Split(f[3], ","), string(login)) {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && !slices.Contains(out, uint32(gid)) {
				out = append(out, uint32(gid))
			}
		}
		return true
	})
	return out, err
}

// groupID is the number of the group of that name.
func (a Database) groupID(name string) (id uint32, ok bool) {
	_ = eachLine(a.path("etc/group"), func(f []string) bool { // without the file there is none
		if len(f) != 4 || f[0] != name {
			return true
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		id, ok = uint32(gid), err == nil
		return false
	})
	return id, ok
}

// TerminalOwner is the group that an account's terminals belong to, and their mode: as under sshd, others of
// the machine write to them only by way of the programs of the group tty.
func (a Database) TerminalOwner(acc Account) (gid uint32, mode os.FileMode) {
	if gid, ok := a.groupID("tty"); ok {
		return gid, 0o620
	}
	return acc.GID, 0o600
}

// eachLine calls each with the colon-separated fields of every line until it returns false.
func eachLine(path string, each func([]string) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(io.Reader(f))
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if !each(strings.Split(s.Text(), ":")) {
			return nil
		}
	}
	return s.Err()
}

// AllowsFileTransfer reports whether the account's shell is one that lets people do as they like (shells(5)).
// A shell that does not is run and says so itself; files have no other guard.
func (a Database) AllowsFileTransfer(shell string) bool {
	switch filepath.Base(shell) {
	case "nologin",
		"false",
		"true",
		"sync",
		"halt",
		"shutdown",
		"rbash",
		"rksh",
		"rzsh": // which some machines list
		return false
	}
	listed := false
	err := eachLine(a.path("etc/shells"), func(f []string) bool {
		listed = len(f) == 1 && f[0] == shell
		return !listed
	})
	return listed || errors.Is(err, fs.ErrNotExist)
}

// credentials makes the attributes under which a process runs as the account. Only root can, and need, change
// them.
func (a Database) credentials(acc Account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if a.UID == 0 {
		attr.Credential = &syscall.Credential{Uid: acc.UID, Gid: acc.GID, Groups: acc.Groups}
	}
	return attr
}

// isDiskFull reports whether err says so.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
