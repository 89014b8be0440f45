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

// Limit is one resource limit that a program starts with (setrlimit(2)).
type Limit struct {
	Resource   int
	Soft, Hard uint64
}

// IsMemory says that Go's runtime may not live with the limit: it sets aside more than many a limit grants,
// and uses little of it.
func (l Limit) IsMemory() bool { return l.Resource == unix.RLIMIT_AS || l.Resource == unix.RLIMIT_DATA }

// limitResources by their names in limits.conf(5), with what one unit there is worth. What is not among them,
// such as maxlogins, is no limit of a process.
var limitResources = map[string]struct {
	number int
	unit   uint64
}{
	"core": {
		unix.RLIMIT_CORE,
		1 << 10,
	}, "data": {unix.RLIMIT_DATA, 1 << 10}, "fsize": {unix.RLIMIT_FSIZE, 1 << 10}, "memlock": {unix.RLIMIT_MEMLOCK, 1 << 10},
	"rss": {
		unix.RLIMIT_RSS,
		1 << 10,
	}, "stack": {unix.RLIMIT_STACK, 1 << 10}, "as": {unix.RLIMIT_AS, 1 << 10}, "msgqueue": {unix.RLIMIT_MSGQUEUE, 1},
	"cpu": {
		unix.RLIMIT_CPU,
		60,
	}, "nofile": {unix.RLIMIT_NOFILE, 1}, "nproc": {unix.RLIMIT_NPROC, 1}, "locks": {unix.RLIMIT_LOCKS, 1},
	"sigqueue": {unix.RLIMIT_SIGPENDING, 1}, "rtprio": {unix.RLIMIT_RTPRIO, 1}, "nice": {unix.RLIMIT_NICE, 1},
}

// How closely an entry fits an account; of two that do, the closer one counts, and of equals the later.
const (
	matchNone = iota
	matchEveryone
	matchGroup
	matchUser
)

// bound is one side of a limit, and how closely the entry that set it fits.
type bound struct {
	value uint64
	match int
}

// limitKey says whether an entry sets the soft or the hard bound.
type limitKey struct {
	resource string
	hard     bool
}

// defaultOpenFiles is how many files a program may have open until it asks for more. This process has asked:
// Go does when it starts.
const defaultOpenFiles = 1024

// Limits are those of limits.conf(5) and limits.d for the account, which pam_limits would set, those of
// memory last. They are nil on most machines.
func (a Database) Limits(acc Account) ([]Limit, error) {
	files, err := filepath.Glob(a.path("etc/security/limits.d/*.conf")) // sorted
	if err != nil {
		return nil, err
	}
	found := map[limitKey]bound{}
	for _, name := range append([]string{a.path("etc/security/limits.conf")}, files...) {
		freed, err := a.readLimits(name, acc, found)
		if err != nil || freed {
			return nil, err
		}
	}
	var out, last []Limit
	for name, r := range limitResources {
		soft, hard := found[limitKey{name, false}], found[limitKey{name, true}]
		if soft.match == matchNone && hard.match == matchNone {
			continue
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(r.number, &now); err != nil {
			return nil, fmt.Errorf("limit %s: %w", name, err)
		}
		if hard.match == matchNone {
			hard.value = now.Max
		}
		if soft.match == matchNone {
			soft.value = now.Cur
			if r.number == unix.RLIMIT_NOFILE {
				soft.value = defaultOpenFiles
			}
		}
		l := Limit{r.number, min(soft.value, hard.value), hard.value}
		if l.IsMemory() {
			last = append(last, l)
		} else {
			out = append(out, l)
		}
	}
	return append(out, last...), nil
}

// readLimits adds what one file says. An entry of the form "alice -" frees its account of all limits.
func (a Database) readLimits(path string, acc Account, found map[limitKey]bound) (freed bool, err error) {
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
		fits := a.matchDomain(w[0], acc)
		switch {
		case fits == matchNone:
		case len(w) == 2 && w[1] == "-" && fits > matchEveryone:
			return true, nil
		case len(w) == 4:
			setBound(found, w[1], w[2], w[3], fits)
		}
	}
	return false, s.Err()
}

// setBound takes one entry over, unless a closer one was there. Entries that cannot be read are passed over,
// as pam_limits does.
func setBound(found map[limitKey]bound, kind, name, text string, fits int) {
	value, ok := limitValue(name, text)
	if !ok || !slices.Contains([]string{"soft", "hard", "-"}, kind) {
		return
	}
	for _, s := range []limitKey{{name, false}, {name, true}} {
		if (kind == "-" || (kind == "hard") == s.hard) && found[s].match <= fits {
			found[s] = bound{value, fits}
		}
	}
}

func limitValue(name, text string) (uint64, bool) {
	r, known := limitResources[name]
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

// matchDomain says whether an entry is meant for the account: by its name, a range of user ids, a group
// (@name or a range of ids) or everyone (*). Groups and everyone do not hold root.
func (a Database) matchDomain(domain string, acc Account) int {
	group, isGroup := strings.CutPrefix(domain, "@")
	switch {
	case domain == string(acc.Login):
		return matchUser
	case acc.UID == 0:
		return matchNone
	case domain == "*":
		return matchEveryone
	case isGroup && (slices.ContainsFunc(acc.Groups, func(gid uint32) bool { return inRange(group, gid) }) || a.inGroup(group, acc)):
		return matchGroup
	case !isGroup && inRange(domain, acc.UID):
		return matchUser
	}
	return matchNone
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
func (a Database) inGroup(name string, acc Account) bool {
	gid, ok := a.groupID(name)
	return ok && slices.Contains(acc.Groups, gid)
}

// defaultUmask is that of a session where the machine names none.
const defaultUmask = 0o022

// Umask is what login.defs(5) says sessions start with.
func (a Database) Umask() int {
	b, err := os.ReadFile(a.path("etc/login.defs"))
	if err != nil {
		return defaultUmask
	}
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) >= 2 && w[0] == "UMASK" {
			if n, err := strconv.ParseUint(w[1], 8, 32); err == nil && n <= uint64(fs.ModePerm) {
				return int(n)
			}
		}
	}
	return defaultUmask
}

// currentUmask is that of this process, or -1 where the kernel does not tell (Linux before 4.7).
func currentUmask() int {
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
