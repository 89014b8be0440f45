// Package account answers: what does this machine say of an operating-system account?
//
// It reads the files that login programs and PAM modules read: passwd(5), group(5), shells(5), nologin(5),
// shadow(5), limits.conf(5), login.defs(5), pam_env(8)'s environment files and the messages of the day. It
// changes nothing. Every question reads the files again, so that an administrator's change counts from the
// next login or program on.
package account

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Account is an operating-system account of this machine.
type Account struct {
	Login  identity.Login
	UID    uint32
	GID    uint32   // primary group
	Groups []uint32 // all groups, the primary group first
	Home   string   // absolute
	Shell  string
}

// Database reads the account files of one machine. It is a value without state: methods may be called
// concurrently.
type Database struct {
	Root string           // the directory that holds etc, run and var; empty means /
	UID  uint32           // effective user id of this process: 0 may become any account, another only itself
	Now  func() time.Time // nil means time.Now
}

// Local returns the database of the machine that this process runs on.
func Local() Database { return Database{UID: uint32(os.Geteuid())} }

// maxLine bounds one line of the account files, in bytes: a group may have thousands of members.
const maxLine = 1 << 20

// path returns the path of a file of the machine, whose name is relative to Root.
func (d Database) path(name string) string { return filepath.Join("/", d.Root, name) }

func (d Database) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}

// Find returns the account of that name, with all its groups. It does not ask whether the account may log in
// now; Admit does. The error is a fault: Invalid for a malformed name, NotFound, Denied when this process
// cannot become the account, Internal when the files cannot be read.
func (d Database) Find(login identity.Login) (Account, error) {
	const op = "account.Find"
	if err := identity.CheckLogin(login); err != nil {
		return Account{}, accountNameInvalid.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	acc, found, err := d.findPasswd(func(acc Account) bool { return acc.Login == login })
	if err != nil {
		return Account{}, accountsUnreadable.Wrap(err, op)
	}
	if !found {
		return Account{}, accountUnknown.New(op, fault.Args{"login": login})
	}
	if d.UID != 0 && acc.UID != d.UID { // only root may become another account
		return Account{}, d.notRootFault(login)
	}
	if acc.Groups, err = d.groupsOf(login, acc.GID); err != nil {
		return Account{}, groupsUnreadable.Wrap(err, op)
	}
	return acc, nil
}

// notRootFault returns the fault for an account that this process cannot become, because it is not root. The
// fault names the account that this process runs as.
func (d Database) notRootFault(login identity.Login) error {
	own, found, err := d.findPasswd(func(acc Account) bool { return acc.UID == d.UID })
	name := string(own.Login)
	if err != nil || !found {
		name = "user id " + strconv.FormatUint(uint64(d.UID), 10)
	}
	return nodeNotRoot.New("account.Find", fault.Args{"account": name, "login": login})
}

// unsetID means "leave the id unchanged" to setresuid(2) and its relatives. A process that root starts as an
// account with that number would still be root, so such accounts are skipped.
const unsetID = 1<<32 - 1

// findPasswd returns the first account in passwd(5) for which match returns true, without its groups. acc is
// valid only if found is true. It skips malformed lines.
func (d Database) findPasswd(match func(Account) bool) (acc Account, found bool, err error) {
	err = eachLine(d.path("etc/passwd"), func(fields []string) bool {
		if len(fields) != 7 { // name, password, user id, group id, comment, home, shell
			return true
		}
		uid, err1 := strconv.ParseUint(fields[2], 10, 32)
		gid, err2 := strconv.ParseUint(fields[3], 10, 32)
		if err1 != nil || err2 != nil || uid == unsetID || gid == unsetID {
			return true
		}
		acc = Account{
			Login: identity.Login(fields[0]),
			UID:   uint32(uid),
			GID:   uint32(gid),
			Home:  fields[5],
			Shell: fields[6],
		}
		found = match(acc)
		return !found
	})
	if acc.Shell == "" {
		acc.Shell = "/bin/sh" // the default of passwd(5)
	}
	if !filepath.IsAbs(acc.Home) {
		acc.Home = "/"
	}
	return acc, found, err
}

// groupsOf returns the ids of an account's groups: first the primary group, then every group in group(5) that
// lists the account as a member. It skips malformed lines.
func (d Database) groupsOf(login identity.Login, primary uint32) ([]uint32, error) {
	groups := []uint32{primary}
	err := eachLine(d.path("etc/group"), func(fields []string) bool { // name, password, id, members
		if len(fields) != 4 || !slices.Contains(strings.Split(fields[3], ","), string(login)) {
			return true
		}
		gid, err := strconv.ParseUint(fields[2], 10, 32)
		if err == nil && !slices.Contains(groups, uint32(gid)) {
			groups = append(groups, uint32(gid))
		}
		return true
	})
	return groups, err
}

// groupID returns the id of the group of that name. ok is false if there is no such group.
func (d Database) groupID(name string) (id uint32, ok bool) {
	_ = eachLine(d.path("etc/group"), func(fields []string) bool { // without the file there is no such group
		if len(fields) != 4 || fields[0] != name {
			return true
		}
		gid, err := strconv.ParseUint(fields[2], 10, 32)
		id, ok = uint32(gid), err == nil
		return false
	})
	return id, ok
}

// TerminalOwner returns the group and mode of the account's terminals, as sshd sets them: other accounts
// write to a terminal only through programs of the group tty (write(1), wall(1)).
func (d Database) TerminalOwner(acc Account) (gid uint32, mode os.FileMode) {
	if gid, ok := d.groupID("tty"); ok {
		return gid, 0o620
	}
	return acc.GID, 0o600
}

// AllowsFileTransfer reports whether accounts with this login shell may transfer files: the shell is listed
// in shells(5), and it is not one that restricts or refuses its user. A restricted shell can enforce its
// rules only on programs that it starts itself, and the file server is not one of them. On a machine without
// /etc/shells, any shell that does not restrict its user is accepted.
func (d Database) AllowsFileTransfer(shell string) bool {
	switch filepath.Base(shell) {
	case "nologin", "false", "true", "sync", "halt", "shutdown", "rbash", "rksh", "rzsh":
		return false // also where shells(5) lists them, as on some machines
	}
	listed := false
	err := eachLine(d.path("etc/shells"), func(fields []string) bool {
		listed = len(fields) == 1 && fields[0] == shell
		return !listed
	})
	return listed || errors.Is(err, fs.ErrNotExist)
}

// eachLine calls fn with the colon-separated fields of each line of a file, until fn returns false or the
// file ends. The error is that of opening or reading the file.
func eachLine(path string, fn func(fields []string) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if !fn(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	return lines.Err()
}
