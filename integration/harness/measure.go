package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// MedianTimes runs each of several ways in turn, rounds times, so that what slows the machine for a while
// slows all of them. It returns the median time of each.
func MedianTimes(rounds int, ways ...func()) []time.Duration {
	times := make([][]time.Duration, len(ways))
	for round := range rounds {
		for i := range ways {
			i = (i + round) % len(ways) // nobody is always the one after the slow one
			began := time.Now()
			ways[i]()
			times[i] = append(times[i], time.Since(began))
		}
	}
	out := make([]time.Duration, len(ways))
	for i, t := range times {
		slices.Sort(t)
		out[i] = t[len(t)/2]
	}
	return out
}

// Measurement is one line of a comparison. Ours over Theirs is what counts; the two alone say how fast the
// machine was.
type Measurement struct {
	What       string  // "tsh ssh node true, loopback"
	Unit       string  // of Ours and Theirs: "ms", "MB/s", "s/GB"
	Ours, Peer float64 // Theirs 0: there is no peer in the same run, and Bound is of Ours
	Bound      float64 // the target for Ours/Theirs, or for Ours; 0: the design has none
	AtLeast    bool    // the target is a least, not a most
}

// Ratio is what the target is about.
func (f Measurement) Ratio() float64 {
	if f.Peer == 0 {
		return f.Ours
	}
	return f.Ours / f.Peer
}

// Holds reports whether the target is met.
func (f Measurement) Holds() bool {
	if f.AtLeast {
		return f.Ratio() >= f.Bound
	}
	return f.Ratio() <= f.Bound
}

// measurements are what this run has measured.
var measurements struct {
	mu   sync.Mutex // guards list
	list []Measurement
}

// Report notes figures for the page, and as metrics of the benchmark: the ratio first.
func Report(b *testing.B, list ...Measurement) {
	b.Helper()
	measurements.mu.Lock()
	defer measurements.mu.Unlock()
	for _, f := range list {
		measurements.list = slices.DeleteFunc(
			measurements.list,
			func(old Measurement) bool { return old.What == f.What },
		) // of an earlier, shorter run
		measurements.list = append(measurements.list, f)
		b.Log(f.line())
	}
}

func (f Measurement) line() string {
	verdict := "holds"
	if !f.Holds() {
		verdict = "NOT YET"
	}
	sign := "≤"
	if f.AtLeast {
		sign = "≥"
	}
	switch {
	case f.Bound == 0:
		return fmt.Sprintf("| %s | | %s %s | | | |", f.What, number(f.Ours), f.Unit)
	case f.Peer == 0:
		return fmt.Sprintf(
			"| %s | | %s %s | | %s %s | %s |",
			f.What,
			number(f.Ours),
			f.Unit,
			sign,
			number(f.Bound),
			verdict,
		)
	}
	return fmt.Sprintf(
		"| %s | %.2f | %s %s | %s %s | %s %.2f | %s |",
		f.What,
		f.Ratio(),
		number(f.Ours),
		f.Unit,
		number(f.Peer),
		f.Unit,
		sign,
		f.Bound,
		verdict,
	)
}

// number has three digits that mean something.
func number(v float64) string {
	digits := 0
	for limit := 100.0; digits < 3 && v < limit; limit /= 10 {
		digits++
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// WriteMeasurements puts what was measured into the page, between the lines that hold its table.
func WriteMeasurements(path string) error {
	const begin, end = "<!-- measured -->\n", "<!-- /measured -->"
	measurements.mu.Lock()
	defer measurements.mu.Unlock()
	if len(measurements.list) == 0 {
		return nil
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for figures", filepath.Base(path))
	}
	var table strings.Builder
	table.WriteString("| what | ratio | Threshold | peer | target | |\n|---|---|---|---|---|---|\n")
	for _, f := range measurements.list {
		table.WriteString(f.line() + "\n")
	}
	return os.WriteFile(path, []byte(before+begin+table.String()+end+after), 0o644)
}

// clockTicks is USER_HZ, in which Linux counts processor time for programs, whatever the kernel's own.
const clockTicks = 100

// CPUDuring is the processor time that a process, its threads and all its descendants use while do runs.
// Descendants are looked at every few milliseconds, because what a server forks for a connection is gone with
// it, and not every parent waits for its children.
func CPUDuring(t testing.TB, pid int, do func()) time.Duration {
	t.Helper()
	used := map[int]time.Duration{} // what each process was seen to have used at the last look
	look := func() {
		for child, cpu := range cpuByProcess(t, pid) {
			used[child] = cpu
		}
	}
	look()
	before := used
	used = map[int]time.Duration{}
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			look()
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	do()
	close(done)
	looking.Wait()
	look()
	var sum time.Duration
	for child, cpu := range used {
		sum += cpu - before[child]
	}
	return sum
}

// CPU is the processor time that a process alone has used.
func CPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	return cpuByProcess(t, pid)[pid]
}

// cpuByProcess is the processor time of a process and of its descendants. One that ends meanwhile is left
// out.
func cpuByProcess(t testing.TB, root int) map[int]time.Duration {
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
		return nil
	}
	parents, cpu := map[int]int{}, map[int]time.Duration{}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// proc(5): a program's name, in parentheses, may have spaces. Then state, parent, …, utime and stime.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, err1 := strconv.Atoi(fields[1])
		user, err2 := strconv.ParseInt(fields[11], 10, 64)
		system, err3 := strconv.ParseInt(fields[12], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Error(err)
		}
		parents[pid], cpu[pid] = parent, time.Duration(user+system)*time.Second/clockTicks
	}
	out := map[int]time.Duration{}
	for pid := range cpu {
		for at := pid; at > 1; at = parents[at] {
			if at == root {
				out[pid] = cpu[pid]
				break
			}
		}
	}
	return out
}

// MemoryMB is one of the process's figures in /proc/PID/status, as VmRSS or VmHWM, in megabytes (10^6 bytes).
func MemoryMB(t testing.TB, pid int, figure string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			kB, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kB * 1024 / 1e6
		}
	}
	t.Fatalf("process %d has no %s", pid, figure)
	return 0
}

// Eventually asks until it is so, and fails the story when it does not come to be.
func Eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(Timeout); time.Now().Before(late); <-tick.C {
		if so() {
			return
		}
	}
	t.Fatalf("it did not come about that %s", what)
}
