package session

// Pid is the program's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }
