"""What jobs do in their `run`, where it takes more than a page. Imported only then."""
