package rules

// Len is how many machines it knows something of.
func (a *Acknowledgements) Len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.newest)
}
