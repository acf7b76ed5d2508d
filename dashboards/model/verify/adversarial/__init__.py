"""What a page shows of prompts on which a writer's DLA is high whatever it reads."""
