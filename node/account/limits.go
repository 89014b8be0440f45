package account

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
	Resource   int // unix.RLIMIT_…
	Soft, Hard uint64
}

// IsMemory reports whether the limit bounds address space. Go's runtime may fail under such a limit: it
// reserves more than many limits grant, and uses little of it.
func (l Limit) IsMemory() bool { return l.Resource == unix.RLIMIT_AS || l.Resource == unix.RLIMIT_DATA }

// limitResources are the resources by their names in limits.conf(5), with the size of one unit there. Items
// that are missing here, such as maxlogins, are not limits of a process.
var limitResources = map[string]struct {
	number int
	unit   uint64
}{
	"core":     {unix.RLIMIT_CORE, 1 << 10},
	"data":     {unix.RLIMIT_DATA, 1 << 10},
	"fsize":    {unix.RLIMIT_FSIZE, 1 << 10},
	"memlock":  {unix.RLIMIT_MEMLOCK, 1 << 10},
	"rss":      {unix.RLIMIT_RSS, 1 << 10},
	"stack":    {unix.RLIMIT_STACK, 1 << 10},
	"as":       {unix.RLIMIT_AS, 1 << 10},
	"msgqueue": {unix.RLIMIT_MSGQUEUE, 1},
	"cpu":      {unix.RLIMIT_CPU, 60},
	"nofile":   {unix.RLIMIT_NOFILE, 1},
	"nproc":    {unix.RLIMIT_NPROC, 1},
	"locks":    {unix.RLIMIT_LOCKS, 1},
	"sigqueue": {unix.RLIMIT_SIGPENDING, 1},
	"rtprio":   {unix.RLIMIT_RTPRIO, 1},
	"nice":     {unix.RLIMIT_NICE, 1},
}

// How closely the domain of an entry matches an account. The closest match wins; of equal matches, the later
// entry.
const (
	matchNone = iota
	matchEveryone
	matchGroup
	matchUser
)

// bound is the value of one side of a limit, and how closely the entry that set it matches the account.
type bound struct {
	value uint64
	match int
}

// limitKey names one side of a limit: its soft or its hard bound.
type limitKey struct {
	resource string
	hard     bool
}

// defaultOpenFiles is the usual soft limit of open files. The limit of this process cannot be used instead:
// Go raises its own when it starts.
const defaultOpenFiles = 1024

// Limits returns the resource limits that pam_limits would set for the account, from limits.conf(5) and the
// files in limits.d. Of several entries for a limit, the closest match wins, and of equal matches the later
// entry. Limits of memory come last, because a Go process that sets the limits may fail after them. The
// result is nil on most machines, and for an account that is exempt. The error is that of reading a file, or
// of asking the kernel for a present limit.
func (d Database) Limits(acc Account) ([]Limit, error) {
	files, err := filepath.Glob(d.path("etc/security/limits.d/*.conf")) // sorted
	if err != nil {
		return nil, err
	}
	found := map[limitKey]bound{}
	for _, name := range append([]string{d.path("etc/security/limits.conf")}, files...) {
		exempt, err := d.readLimits(name, acc, found)
		if err != nil || exempt {
			return nil, err
		}
	}
	var limits, ofMemory []Limit
	for name, resource := range limitResources {
		soft := found[limitKey{resource: name, hard: false}]
		hard := found[limitKey{resource: name, hard: true}]
		if soft.match == matchNone && hard.match == matchNone {
			continue
		}
		limit, err := completeLimit(resource.number, soft, hard)
		if err != nil {
			return nil, fmt.Errorf("limit %s: %w", name, err)
		}
		if limit.IsMemory() {
			ofMemory = append(ofMemory, limit)
		} else {
			limits = append(limits, limit)
		}
	}
	return append(limits, ofMemory...), nil
}

// completeLimit returns the limit with the two bounds. A bound that no entry sets (matchNone) is taken from
// the limits of this process. The soft bound is at most the hard one, as the kernel demands.
func completeLimit(resource int, soft, hard bound) (Limit, error) {
	var current unix.Rlimit
	if err := unix.Getrlimit(resource, &current); err != nil {
		return Limit{}, err
	}
	if hard.match == matchNone {
		hard.value = current.Max
	}
	if soft.match == matchNone {
		soft.value = current.Cur
		if resource == unix.RLIMIT_NOFILE {
			soft.value = defaultOpenFiles
		}
	}
	return Limit{resource, min(soft.value, hard.value), hard.value}, nil
}

// readLimits adds the entries of one file that match the account to found. exempt reports that there is an
// entry of the form "alice -", which exempts the account from all limits of all files. It skips malformed
// lines. A file that does not exist has no entries.
func (d Database) readLimits(path string, acc Account, found map[limitKey]bound) (exempt bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			return false, nil
		}
		return false, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line) // domain, type, item, value
		if len(fields) < 2 {
			continue
		}
		match := d.matchDomain(fields[0], acc)
		switch {
		case match == matchNone: // the entry is for others
		case len(fields) == 2 && fields[1] == "-" && match > matchEveryone:
			return true, nil // an entry for everyone exempts nobody
		case len(fields) == 4:
			setBound(found, fields[1], fields[2], fields[3], match)
		}
	}
	return false, lines.Err()
}

// setBound adds one entry to found: its kind ("soft", "hard" or "-" for both), the name of the resource, the
// value as text, and how closely the entry matches the account. An entry that matched more closely stays. It
// skips entries that it cannot read, as pam_limits does.
func setBound(found map[limitKey]bound, kind, name, text string, match int) {
	value, ok := limitValue(name, text)
	if !ok || !slices.Contains([]string{"soft", "hard", "-"}, kind) {
		return
	}
	for _, key := range []limitKey{{resource: name, hard: false}, {resource: name, hard: true}} {
		applies := kind == "-" || (kind == "hard") == key.hard
		if applies && found[key].match <= match {
			found[key] = bound{value, match}
		}
	}
}

// limitValue parses the value of a resource and converts it to the kernel's unit. ok is false for an unknown
// resource and for a value that is not valid.
func limitValue(name, text string) (value uint64, ok bool) {
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

// matchDomain returns how closely the domain of an entry matches the account: one of the match constants. A
// domain is a login, a range of user ids, a group (@name or @range of ids) or everyone (*). Root is matched
// only by its login.
func (d Database) matchDomain(domain string, acc Account) int {
	group, isGroup := strings.CutPrefix(domain, "@")
	switch {
	case domain == string(acc.Login):
		return matchUser
	case acc.UID == 0:
		return matchNone
	case domain == "*":
		return matchEveryone
	case isGroup && (anyInRange(group, acc.Groups) || d.inGroup(group, acc)):
		return matchGroup
	case !isGroup && inRange(domain, acc.UID):
		return matchUser
	}
	return matchNone
}

func anyInRange(text string, ids []uint32) bool {
	return slices.ContainsFunc(ids, func(id uint32) bool { return inRange(text, id) })
}

// inRange reports whether the id is in the range "from:to", either end of which may be missing.
func inRange(text string, id uint32) bool {
	from, to, isRange := strings.Cut(text, ":")
	if !isRange || from+to == "" {
		return false
	}
	low, err1 := strconv.ParseUint(cmp.Or(from, "0"), 10, 32)
	high, err2 := strconv.ParseUint(cmp.Or(to, "4294967295"), 10, 32)
	return err1 == nil && err2 == nil && uint64(id) >= low && uint64(id) <= high
}

// inGroup reports whether the account is a member of the group of that name.
func (d Database) inGroup(name string, acc Account) bool {
	gid, ok := d.groupID(name)
	return ok && slices.Contains(acc.Groups, gid)
}

// defaultUmask is the umask of sessions where the machine sets none.
const defaultUmask = 0o022

// Umask returns the umask that sessions start with (UMASK of login.defs(5)).
func (d Database) Umask() int {
	b, err := os.ReadFile(d.path("etc/login.defs"))
	if err != nil {
		return defaultUmask
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "UMASK" {
			if n, err := strconv.ParseUint(f[1], 8, 32); err == nil && n <= uint64(fs.ModePerm) {
				return int(n)
			}
		}
	}
	return defaultUmask
}
