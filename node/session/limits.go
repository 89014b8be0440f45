package session

import (
	"bufio"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limit is one resource limit that a program starts with (setrlimit(2)).
type limit struct {
	Resource   int
	Soft, Hard uint64
}

// ofMemory says that Go's runtime may not live with the limit: it sets aside more than many a limit grants, and uses little of it.
func (l limit) ofMemory() bool { return l.Resource == unix.RLIMIT_AS || l.Resource == unix.RLIMIT_DATA }

// resources by their names in limits.conf(5), with what one unit there is worth. What is not among them, such as maxlogins, is no
// limit of a process.
var resources = map[string]struct {
	number int
	unit   uint64
}{
	"core": {unix.RLIMIT_CORE, 1 << 10}, "data": {unix.RLIMIT_DATA, 1 << 10}, "fsize": {unix.RLIMIT_FSIZE, 1 << 10}, "memlock": {unix.RLIMIT_MEMLOCK, 1 << 10},
	"rss": {unix.RLIMIT_RSS, 1 << 10}, "stack": {unix.RLIMIT_STACK, 1 << 10}, "as": {unix.RLIMIT_AS, 1 << 10}, "msgqueue": {unix.RLIMIT_MSGQUEUE, 1},
	"cpu": {unix.RLIMIT_CPU, 60}, "nofile": {unix.RLIMIT_NOFILE, 1}, "nproc": {unix.RLIMIT_NPROC, 1}, "locks": {unix.RLIMIT_LOCKS, 1},
	"sigqueue": {unix.RLIMIT_SIGPENDING, 1}, "rtprio": {unix.RLIMIT_RTPRIO, 1}, "nice": {unix.RLIMIT_NICE, 1},
}

// How closely an entry fits an account; of two that do, the closer one counts, and of equals the later.
const (
	fitsNot = iota
	fitsAll
	fitsGroup
	fitsUser
)

// bound is one side of a limit, and how closely the entry that set it fits.
type bound struct {
	value uint64
	fits  int
}

// side says whether an entry sets the soft or the hard bound.
type side struct {
	resource string
	hard     bool
}

// usualFiles is how many files a program may have open until it asks for more. This process has asked: Go does when it starts.
const usualFiles = 1024

// limits are those of limits.conf(5) and limits.d for the account, which pam_limits would set, those of memory last. They are nil on most
// machines.
func (a Accounts) limits(acc Account) ([]limit, error) {
	files, err := filepath.Glob(a.file("etc/security/limits.d/*.conf")) // sorted
	if err != nil {
		return nil, err
	}
	found := map[side]bound{}
	for _, name := range append([]string{a.file("etc/security/limits.conf")}, files...) {
		freed, err := a.readLimits(name, acc, found)
		if err != nil || freed {
			return nil, err
		}
	}
	var out, last []limit
	for name, r := range resources {
		soft, hard := found[side{name, false}], found[side{name, true}]
		if soft.fits == fitsNot && hard.fits == fitsNot {
			continue
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(r.number, &now); err != nil {
			return nil, fmt.Errorf("limit %s: %w", name, err)
		}
		if hard.fits == fitsNot {
			hard.value = now.Max
		}
		if soft.fits == fitsNot {
			soft.value = now.Cur
			if r.number == unix.RLIMIT_NOFILE {
				soft.value = usualFiles
			}
		}
		l := limit{r.number, min(soft.value, hard.value), hard.value}
		if l.ofMemory() {
			last = append(last, l)
		} else {
			out = append(out, l)
		}
	}
	return append(out, last...), nil
}

// readLimits adds what one file says. An entry of the form "alice -" frees its account of all limits.
func (a Accounts) readLimits(path string, acc Account, found map[side]bound) (freed bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			return false, nil
		}
		return false, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		fits := a.fits(w[0], acc)
		switch {
		case fits == fitsNot:
		case len(w) == 2 && w[1] == "-" && fits > fitsAll:
			return true, nil
		case len(w) == 4:
			setBound(found, w[1], w[2], w[3], fits)
		}
	}
	return false, s.Err()
}

// setBound takes one entry over, unless a closer one was there. Entries that cannot be read are passed over, as pam_limits does.
func setBound(found map[side]bound, kind, name, text string, fits int) {
	value, ok := limitValue(name, text)
	if !ok || !slices.Contains([]string{"soft", "hard", "-"}, kind) {
		return
	}
	for _, s := range []side{{name, false}, {name, true}} {
		if (kind == "-" || (kind == "hard") == s.hard) && found[s].fits <= fits {
			found[s] = bound{value, fits}
		}
	}
}

func limitValue(name, text string) (uint64, bool) {
	r, known := resources[name]
	if !known {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case name == "nice": // -20 to 19, which the kernel counts as 40 to 1
		return uint64(20 - n), err == nil && n >= -20 && n <= 19
	case text == "unlimited" || text == "infinity" || text == "-1":
		return unix.RLIM_INFINITY, true
	case err != nil || n < 0 || uint64(n) > unix.RLIM_INFINITY/r.unit:
		return 0, false
	}
	return uint64(n) * r.unit, true
}

// fits says whether an entry is meant for the account: by its name, a range of user ids, a group (@name or a range of ids) or everyone
// (*). Groups and everyone do not hold root.
func (a Accounts) fits(domain string, acc Account) int {
	group, isGroup := strings.CutPrefix(domain, "@")
	switch {
	case domain == string(acc.Login):
		return fitsUser
	case acc.UID == 0:
		return fitsNot
	case domain == "*":
		return fitsAll
	case isGroup && (slices.ContainsFunc(acc.Groups, func(gid uint32) bool { return inRange(group, gid) }) || a.inGroup(group, acc)):
		return fitsGroup
	case !isGroup && inRange(domain, acc.UID):
		return fitsUser
	}
	return fitsNot
}

// inRange reads "from:to", either end of which may be left out.
func inRange(text string, id uint32) bool {
	from, to, isRange := strings.Cut(text, ":")
	if !isRange || from+to == "" {
		return false
	}
	low, err1 := strconv.ParseUint(cmp.Or(from, "0"), 10, 32)
	high, err2 := strconv.ParseUint(cmp.Or(to, "4294967295"), 10, 32)
	return err1 == nil && err2 == nil && uint64(id) >= low && uint64(id) <= high
}

// inGroup reports whether the account is in the group of that name.
func (a Accounts) inGroup(name string, acc Account) bool {
	gid, ok := a.groupID(name)
	return ok && slices.Contains(acc.Groups, gid)
}

// usualUmask is that of a session where the machine names none.
const usualUmask = 0o022

// umask is what login.defs(5) says sessions start with.
func (a Accounts) umask() int {
	b, err := os.ReadFile(a.file("etc/login.defs"))
	if err != nil {
		return usualUmask
	}
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) >= 2 && w[0] == "UMASK" {
			if n, err := strconv.ParseUint(w[1], 8, 32); err == nil && n <= uint64(fs.ModePerm) {
				return int(n)
			}
		}
	}
	return usualUmask
}

// ownUmask is that of this process, or -1 where the kernel does not tell (Linux before 4.7).
func ownUmask() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32); err == nil {
				return int(n)
			}
		}
	}
	return -1
}
